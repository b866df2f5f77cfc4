"""A training's state after each epoch, so that a crash costs one epoch at most.

The two newest are kept. A file's name holds its epoch and the digest of its content, so that a
damaged one is known; it is written under another name and renamed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from fer_pipeline.errors import DataError, TrainingError
from fer_pipeline.files import whole_file

log = logging.getLogger(__name__)

KEPT = 2
"""Number of checkpoints that stay: the newest, and one in case it is damaged."""

_NAME = re.compile(r"epoch-(\d{5})-([0-9a-f]{16})\.pt")


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: where this backbone's checkpoints lie; those of its other trainings are deleted
            with the first checkpoint that is written.
        key: digest of all that decides the result (params, data, code): checkpoints of another
            key are not used.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._all, self._own = folder, folder / key

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after an epoch: tensors, numbers and texts in dicts and lists.

        Raises:
            TrainingError: it can't be written.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self._own / f"epoch-{epoch:05}-{digest}.pt"
        try:
            with whole_file(path) as partial:
                partial.write_bytes(content)
            self._clean()
        except (DataError, OSError) as error:
            raise TrainingError(str(error)) from error

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None; damaged ones are reported and deleted."""
        for path in self._newest_first():
            content = path.read_bytes()
            named = _NAME.fullmatch(path.name)
            if named and hashlib.sha256(content).hexdigest().startswith(named[2]):
                state: dict[str, Any] = torch.load(
                    io.BytesIO(content), map_location="cpu", weights_only=True
                )
                return state
            log.warning("checkpoint %s is damaged: the one before it is used", path)
            path.unlink(missing_ok=True)
        return None

    def clear(self) -> None:
        """Delete all: the training is done."""
        shutil.rmtree(self._all, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        if not self._own.is_dir():
            return []
        return sorted(path for path in self._own.iterdir() if _NAME.fullmatch(path.name))[::-1]

    def _clean(self) -> None:
        kept = self._newest_first()[:KEPT]
        for path in self._own.iterdir():  # also what a killed process had begun to write
            if path not in kept:
                path.unlink()
        for folder in self._all.iterdir():
            if folder != self._own:
                shutil.rmtree(folder, ignore_errors=True)

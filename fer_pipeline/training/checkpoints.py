"""A training's state after an epoch, so that a crash does not cost the epochs before it.

The two newest are kept. A file's name holds its epoch and the digest of its content, so that a
damaged one is known; it is written under another name and renamed. A thread does that while the
next epoch runs.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
        every_s: seconds from one checkpoint to the next, at least.
    """

    def __init__(self, folder: Path, key: str, every_s: float = 0.0) -> None:
        self._all, self._own = folder, folder / key
        self._every_s, self._began = every_s, time.monotonic()
        self._newest = 0
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None

    def due(self) -> bool:
        """Whether the last checkpoint, or the beginning, is long enough ago."""
        return time.monotonic() - self._began >= self._every_s

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Copy the state after an epoch, and have a thread write it.

        Args:
            epoch: its number.
            state: tensors, numbers and texts in dicts, lists and tuples. It may change afterwards.

        Raises:
            TrainingError: the one before it can't be written.
        """
        self.wait()
        self._began = time.monotonic()
        self._newest = epoch
        copy = _copy_to_host(state)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self._writing = self._thread.submit(self._write, epoch, copy)

    def finish(self, epoch: int, state: dict[str, Any]) -> None:
        """The same, unless it has been done, and wait until it lies on the disk."""
        if self._newest != epoch:
            self.save(epoch, state)
        self.wait()

    def wait(self) -> None:
        """Wait until what was saved lies on the disk.

        Raises:
            TrainingError: it can't be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, epoch: int, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
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
        self.wait()
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
        self.wait()
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


def _copy_to_host(state: Any) -> Any:
    """A copy whose tensors lie on the CPU. A GPU may still be at it."""
    if isinstance(state, Tensor):
        copy = torch.empty_like(state, device="cpu", pin_memory=state.is_cuda)
        return copy.copy_(state.detach(), non_blocking=True)
    if isinstance(state, dict):
        return {key: _copy_to_host(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_copy_to_host(value) for value in state]
    return state

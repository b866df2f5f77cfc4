"""A training's state after an epoch, so that a crash does not cost the epochs before it.

The two newest are kept. A file's name holds its epoch and the digest of its content, so that a
damaged one is known; it is written under another name and renamed. A thread does that while the
next epoch runs. Another one brings copies to where other machines find them, if there is such a
place: it takes as long as it takes, and what it can't do ends no training.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fer_pipeline.errors import DataError, TrainingError
from fer_pipeline.files import whole_file

log = logging.getLogger(__name__)

KEPT = 2
"""Number of checkpoints that stay: the newest, and one in case it is damaged."""

COPY_EVERY_S = 60.0
"""Seconds from the beginning of one copy to that of the next, at least."""

ASK_AGAIN_AFTER_S = (2.0, 8.0, 20.0)
"""How long to wait, before training begins, for a place of copies that does not answer."""

_NAME = re.compile(r"epoch-(\d{5})-([0-9a-f]{16})\.pt")


class Copies(Protocol):
    """Where copies of the checkpoints of one training are, by their names.

    Each method raises DataError where it can't be done: a transient one if it may succeed later.
    """

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def write(self, file: Path) -> None:
        """Copy a file, which is whole under its name at the end or not there."""

    def delete(self, name: str) -> None: ...


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: where this backbone's checkpoints lie; those of its other trainings are deleted
            with the first checkpoint that is written.
        key: digest of all that decides the result (params, data, code): checkpoints of another
            key are not used.
        every_s: seconds from one checkpoint to the next, at least.
        copies: another place for those of this key, or None.
    """

    def __init__(
        self, folder: Path, key: str, every_s: float = 0.0, copies: Copies | None = None
    ) -> None:
        self._all, self._own = folder, folder / key
        self._every_s, self._began = every_s, time.monotonic()
        self._newest = 0
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._copies = copies and _Copier(copies)

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
            if self._copies:
                self._copies.take(path)
        except (DataError, OSError) as error:
            raise TrainingError(str(error)) from error

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None; damaged ones are reported and deleted.

        A copy that is newer than what is here is brought here first.
        """
        self.wait()
        found = self._read_newest()
        if self._copies and (newer := self._copies.newer(found[0] if found else "")):
            found = newer
            with whole_file(self._own / newer[0]) as partial:  # the other devices read it, too
                partial.write_bytes(newer[1])
        if found is None:
            return None
        state: dict[str, Any] = torch.load(
            io.BytesIO(found[1]), map_location="cpu", weights_only=True
        )
        return state

    def _read_newest(self) -> tuple[str, bytes] | None:
        for path in self._newest_first():
            content = path.read_bytes()
            if _is_whole(path.name, content):
                return path.name, content
            log.warning("checkpoint %s is damaged: the one before it is used", path)
            path.unlink(missing_ok=True)
        return None

    def clear(self) -> None:
        """Delete all: the training is done."""
        self.wait()
        shutil.rmtree(self._all, ignore_errors=True)
        if self._copies:
            self._copies.clear()

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


class _Copier:
    """Brings the newest checkpoint to another place, and takes them from there.

    A place that is away is reported once, and tried again with the next copy.
    """

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._thread = ThreadPoolExecutor(1, "checkpoint copies")
        self._copying: Future[None] | None = None
        self._began = -math.inf
        self._failed = False

    def take(self, path: Path) -> None:
        """Copy a file, unless the last copy is less than a minute old or still on its way."""
        busy = self._copying is not None and not self._copying.done()
        if not busy and time.monotonic() - self._began >= COPY_EVERY_S:
            self._began = time.monotonic()
            self._copying = self._thread.submit(self._copy, path)

    def _copy(self, path: Path) -> None:
        try:
            self._copies.write(path)
            for name in self._newest_first()[KEPT:]:
                self._copies.delete(name)
        except (DataError, OSError) as error:
            if not self._failed:
                log.warning("no copy of the checkpoint: %s; training goes on", error)
            self._failed = True
        else:
            self._failed = False

    def newer(self, name: str) -> tuple[str, bytes] | None:
        """The newest whole copy of a later epoch than this one's: its name and content."""
        for wait_s in (*ASK_AGAIN_AFTER_S, 0.0):
            try:
                return self._newer(name)
            except DataError as error:
                if not (wait_s and error.transient):
                    log.warning("copies of checkpoints are not used: %s", error)
                    break
                log.warning("%s: asked again in %g s", error, wait_s)
            time.sleep(wait_s)
        return None

    def _newer(self, than: str) -> tuple[str, bytes] | None:
        for name in self._newest_first():
            if _epoch(name) <= _epoch(than):
                break
            content = self._copies.read(name)
            if _is_whole(name, content):
                return name, content
            log.warning("the copy of checkpoint %s is damaged: the one before it is used", name)
            self._copies.delete(name)
        return None

    def clear(self) -> None:
        """Delete all."""
        if self._copying:
            wait([self._copying])
        try:
            for name in self._copies.names():
                self._copies.delete(name)
        except DataError as error:
            log.warning("copies of checkpoints that nobody needs any more stay: %s", error)

    def _newest_first(self) -> list[str]:
        return sorted(filter(_NAME.fullmatch, self._copies.names()), reverse=True)


def _epoch(name: str) -> int:
    named = _NAME.fullmatch(name)
    return int(named[1]) if named else 0


def _is_whole(name: str, content: bytes) -> bool:
    named = _NAME.fullmatch(name)
    return named is not None and hashlib.sha256(content).hexdigest().startswith(named[2])


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

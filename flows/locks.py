"""Locks that the kernel lets go of, however their holders end.

A lock may be handed to a child process, which then holds it too: what belongs to a run stays
taken until the last of its processes is gone, even when the flow itself was killed.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Lock:
    """One lock file, opened; the file stays when the lock goes, with a note of its last holder."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """To hand to a child; only while the lock is held."""
        assert self._fd is not None
        return self._fd

    def take(self, note: str) -> bool:
        """Take it if it is free; `note` tells others who has it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        os.ftruncate(fd, 0)
        os.write(fd, note.encode())
        self._fd = fd
        return True

    def holder(self) -> str:
        """The note of whoever took it last."""
        return self._path.read_text(encoding="utf-8", errors="replace")

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

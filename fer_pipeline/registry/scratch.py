"""Temporary folders for copies of weights: in the project, where the next process clears them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fer_pipeline.paths import SCRATCH


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder that is deleted at the end; MLflow's own temporary files go there, too.

    What killed processes left goes first: the kernel frees the lock beside a folder with the
    process that holds it.
    """
    SCRATCH.mkdir(exist_ok=True)
    for leftover in SCRATCH.glob("*.lock"):
        with suppress(Timeout), FileLock(leftover, timeout=0):
            shutil.rmtree(leftover.with_suffix(""), ignore_errors=True)
            leftover.unlink(missing_ok=True)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=SCRATCH.resolve(), ignore_cleanup_errors=True) as folder:
        lock = Path(f"{folder}.lock")
        with FileLock(lock):
            tempfile.tempdir = folder
            try:
                yield Path(folder)
            finally:
                tempfile.tempdir = before
                lock.unlink(missing_ok=True)

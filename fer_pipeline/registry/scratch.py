"""Temporary folders for copies of weights: in the project, where the next process clears them."""

from __future__ import annotations

import os
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

    What a killed process left goes first. A process holds a lock beside its folder, which the
    kernel frees with it, so that the folder of another one that runs is told from a leftover.
    """
    SCRATCH.mkdir(exist_ok=True)
    for leftover in SCRATCH.glob("*.lock"):
        with suppress(Timeout), FileLock(leftover, timeout=0):
            shutil.rmtree(leftover.with_suffix(""), ignore_errors=True)
            leftover.unlink(missing_ok=True)
    folder = (SCRATCH / str(os.getpid())).resolve()
    with FileLock(folder.with_suffix(".lock")), _as_temporary(folder):
        shutil.rmtree(folder, ignore_errors=True)  # of a process of the same number
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)


@contextmanager
def _as_temporary(folder: Path) -> Iterator[None]:
    """Have `tempfile` make its files in a folder."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before

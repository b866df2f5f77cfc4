"""The folder for the temporary files of one test run.

What no test removes, such as the files of a process that was killed on purpose, goes with the run;
and if the run itself is killed, with the next one.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import psutil

_PREFIX = "fer-tests-"


def make_session_folder() -> str:
    """A new folder for this process, or that of the process whose worker it is.

    pytest's own folders, which it keeps of the last runs, stay where they were.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return os.environ["TMPDIR"]
    shared = Path(tempfile.gettempdir())
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(shared))
    for folder in shared.glob(f"{_PREFIX}*"):
        if not psutil.pid_exists(int(folder.name.removeprefix(_PREFIX))):
            shutil.rmtree(folder, ignore_errors=True)
    own = shared / f"{_PREFIX}{os.getpid()}"
    own.mkdir(exist_ok=True)
    own.chmod(0o711)  # PostgreSQL runs as another user, and passes through
    tempfile.tempdir = str(own)
    atexit.register(_remove, own, os.getpid())
    return str(own)


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # no process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)

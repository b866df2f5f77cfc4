"""The folder for the temporary files of one test run.

What no test removes, such as the files of a process that was killed on purpose, goes with the run;
and if the run itself is killed, with the next one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

_PREFIX = "fer-tests-"


def make_session_folder() -> Path:
    """A new folder in the one for temporary files, named after this process."""
    shared = Path(tempfile.gettempdir())
    for folder in shared.glob(f"{_PREFIX}*"):
        if not psutil.pid_exists(int(folder.name.removeprefix(_PREFIX))):
            shutil.rmtree(folder, ignore_errors=True)
    own = shared / f"{_PREFIX}{os.getpid()}"
    own.mkdir(exist_ok=True)
    own.chmod(0o711)  # PostgreSQL runs as another user, and passes through
    return own

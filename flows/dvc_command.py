"""DVC's command line for one of several commands that run side by side:

    python -P dvc_command.py ARGUMENT ...

It waits for DVC's lock. Without --wait-for-lock DVC would do so for three seconds, also after a
stage's command has ended: a finished training could go unrecorded. It asks for the lock ten times
as often as DVC by itself, which is every half second: stages that start together all need it, each
for a fifth of that.
"""

from __future__ import annotations

import atexit
import gc

if __name__ == "__main__":
    gc.disable()  # imports make objects by the hundred thousand, and hardly any garbage
    atexit.register(gc.freeze)  # nor is there any for the interpreter's end to look for

import sys

import dvc.lock
from dvc.cli import main

if __name__ == "__main__":
    dvc.lock.DEFAULT_TIMEOUT = 0.3  # seconds, in which it asks six times; then again, and so on
    sys.exit(main(["--wait-for-lock", *sys.argv[1:]]))

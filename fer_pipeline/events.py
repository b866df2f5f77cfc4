"""What a command tells the program that started it: events as they happen, and how it ends.

A stage works the same whether or not anybody listens. Whoever does names a file in `FER_EVENTS`
and reads the lines that are appended to it, each one JSON object with its `event`:

    run     an MLflow run that the stage logs to: name, run_id, uri
    epoch   a finished epoch: backbone, phase, epoch, epochs, val_accuracy, ...
    error   why the stage ends: message, transient
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fer_pipeline.errors import DataError, FerError, one_line

VARIABLE = "FER_EVENTS"


def emit(event: str, **values: str | float | bool | None) -> None:
    """Append one event, if anybody listens; values must be JSON's."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    line = json.dumps({"event": event, **values}) + "\n"
    # One write of an appending stream: the lines of two processes do not mix.
    with Path(path).open("ab", buffering=0) as stream:
        stream.write(line.encode())


def exit_status(work: Callable[[], object]) -> int:
    """Do a command's work; any error that the user can mend is one line, and an event.

    With `FER_DEBUG` in the environment it is a traceback.

    Returns:
        0 done, 1 an error that the user can mend, 130 interrupted.
    """
    try:
        work()
    except (FerError, OSError) as error:
        told = error if isinstance(error, FerError) else _described(error)
        emit("error", message=str(told), transient=told.transient)
        if os.environ.get("FER_DEBUG"):
            raise
        sys.stderr.write(f"error: {told}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _described(error: OSError) -> FerError:
    """What the system refused, where nobody has said it in better words."""
    if error.filename is None or not error.strerror:
        return DataError(one_line(error))
    return DataError(f"{error.filename}: {error.strerror}: look at its folder, then run it again")


class Listener:
    """Reads what has been told since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def read(self) -> list[dict[str, Any]]:
        """The events since the last call; a line that is still being written waits."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

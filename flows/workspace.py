"""One run at a time in a project's folder, which it finds startable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_pipeline.errors import DataError
from fer_pipeline.repair import repair
from flows.errors import BusyError, FlowError
from flows.locks import Lock

_LOOK_EVERY_S = 0.5


@contextmanager
def alone_in(folder: Path, who: str, wait_s: float, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the folder for one run; gives the descriptor of the lock, to hand to its children.

    What a killed DVC may have left torn there is mended first.

    Args:
        folder: of `dvc.yaml`.
        who: the run's name, for the message to others.
        wait_s: how long to wait for another run.
        say: told of waits and repairs.

    Raises:
        BusyError: another run, or a DVC command, works there.
        FlowError: it is no DVC project.
    """
    if not (folder / ".dvc").is_dir():
        raise FlowError(f"{folder.resolve()} is no DVC project: give the folder of dvc.yaml")
    lock = Lock(folder / ".dvc" / "tmp" / "fer-flow.lock")
    end = time.monotonic() + wait_s
    told = False
    while not lock.take(who):
        if time.monotonic() >= end:
            raise BusyError(
                f"{lock.holder() or 'another run'} works in {folder.resolve()}: wait until it has "
                f"ended, or give this run a copy of the project"
            )
        if not told:
            say(f"waiting for {lock.holder() or 'another run'} to leave {folder.resolve()}")
            told = True
        time.sleep(_LOOK_EVERY_S)
    try:
        for step in _repaired(folder):
            say(step)
        yield lock.fd
    finally:
        lock.release()


def _repaired(folder: Path) -> list[str]:
    try:
        return repair(folder)
    except DataError as error:
        raise BusyError(str(error)) from error

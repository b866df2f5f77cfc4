"""One run at a time in a project's folder, which it finds startable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fer_pipeline.errors import DataError
from fer_pipeline.repair import repair
from flows.errors import BusyError, FlowError
from flows.locks import Lock

_LOOK_EVERY_S = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How to wait for others in the folder.

    Attributes:
        wait_s: at most.
        say: told of waits and repairs.
        rest: waits for so many seconds; what it raises ends the wait.
    """

    wait_s: float
    say: Callable[[str], None]
    rest: Callable[[float], None] = time.sleep

    def until_free(self, work: Callable[[], T]) -> T:
        """Do it as soon as nobody is in the way.

        Raises:
            BusyError: somebody still is.
        """
        end = time.monotonic() + self.wait_s
        told = False
        while True:
            try:
                return work()
            except BusyError as error:
                if time.monotonic() >= end:
                    raise
                if not told:
                    self.say(f"waiting: {error}")
                    told = True
            self.rest(_LOOK_EVERY_S)


@contextmanager
def alone_in(folder: Path, who: str, patience: Patience) -> Iterator[int]:
    """Hold the folder for one run; gives the descriptor of the lock, to hand to its children.

    What a killed DVC may have left torn there is mended first.

    Args:
        folder: of `dvc.yaml`.
        who: the run's name, for the message to others.
        patience: with another run, and with a DVC command.

    Raises:
        BusyError: another run, or a DVC command, works there.
        FlowError: it is no DVC project.
    """
    if not (folder / ".dvc").is_dir():
        raise FlowError(f"{folder.resolve()} is no DVC project: give the folder of dvc.yaml")
    lock = Lock(folder / ".dvc" / "tmp" / "fer-flow.lock")

    def take() -> None:
        if not lock.take(who):
            raise BusyError(
                f"{lock.holder() or 'another run'} works in {folder.resolve()}: wait until it has "
                f"ended, or give this run a copy of the project"
            )

    patience.until_free(take)
    try:
        for step in patience.until_free(lambda: _repaired(folder)):
            patience.say(step)
        yield lock.fd
    finally:
        lock.release()


def _repaired(folder: Path) -> list[str]:
    try:
        return repair(folder)
    except DataError as error:
        raise BusyError(str(error)) from error

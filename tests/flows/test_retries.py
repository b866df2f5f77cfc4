"""What may pass is tried again; a run that ends does not wait for that."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Timer

import pytest
from prefect.logging import disable_run_logger

from flows import retries as module
from flows.errors import CommandError, PassingCommandError, StoppedError
from flows.process import Children
from flows.retries import RETRIES, with_retries


class Work:
    """Fails so many times, then succeeds."""

    def __init__(self, failures: int, error: type[CommandError] = PassingCommandError) -> None:
        self.failures = failures
        self.error = error
        self.attempts = 0

    def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise self.error("the server is away")
        return "done"


def tried(work: Work, rests: list[float]) -> str:
    with disable_run_logger():
        return with_retries(work, rests.append)


def test_each_rest_is_about_twice_as_long_as_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 10.0)
    rests: list[float] = []
    assert tried(Work(RETRIES), rests) == "done"
    assert [5 * 2**n <= rest <= 15 * 2**n for n, rest in enumerate(rests)] == [True] * RETRIES


def test_the_last_failure_is_told() -> None:
    work = Work(RETRIES + 1)
    with pytest.raises(PassingCommandError):
        tried(work, [])
    assert work.attempts == RETRIES + 1


def test_what_does_not_pass_is_not_tried_again() -> None:
    work = Work(1, CommandError)
    with pytest.raises(CommandError):
        tried(work, [])
    assert work.attempts == 1


def test_a_run_that_ends_waits_for_no_next_attempt(tmp_path: Path) -> None:
    children = Children(tmp_path)
    stopper = Timer(0.1, children.stop)
    stopper.start()
    begun = time.monotonic()
    with disable_run_logger(), pytest.raises(StoppedError):
        with_retries(Work(9), children.rest)
    assert time.monotonic() - begun < 4  # the shortest rest is of five seconds
    stopper.join()

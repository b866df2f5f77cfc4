"""What may pass by itself is tried again; a run that ends does not wait for that."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest

from fer_pipeline.errors import FlowError, StoppedError, TransientFlowError
from flows import retries as module
from flows.process import Processes
from flows.retries import RETRIES, when_free, with_retries


class Work:
    """Fails so many times, then succeeds."""

    def __init__(self, failures: int, error: type[FlowError] = TransientFlowError) -> None:
        self.failures = failures
        self.error = error
        self.attempts = 0

    def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise self.error("the server is away")
        return "done"


def test_each_wait_is_about_twice_as_long_as_the_one_before() -> None:
    waits: list[float] = []
    warnings: list[str] = []
    assert with_retries(Work(RETRIES), waits.append, warnings.append) == "done"
    assert [10 * 2**n <= wait <= 10 * 2**n + 5 for n, wait in enumerate(waits)] == [True] * RETRIES
    assert warnings[0] == f"the server is away; next attempt in {waits[0]:.0f} s"
    assert len(warnings) == RETRIES


def test_the_last_failure_is_raised() -> None:
    work = Work(RETRIES + 1)
    with pytest.raises(TransientFlowError, match="the server is away"):
        with_retries(work, lambda _: None, print)
    assert work.attempts == RETRIES + 1


def test_what_does_not_pass_is_not_tried_again() -> None:
    work = Work(1, FlowError)
    with pytest.raises(FlowError):
        with_retries(work, lambda _: None, print)
    assert work.attempts == 1


def test_a_run_that_ends_waits_for_no_next_attempt(tmp_path: Path) -> None:
    with closing(Processes(tmp_path)) as processes:
        stopper = Timer(0.1, processes.close)
        stopper.start()
        begun = time.monotonic()
        with pytest.raises(StoppedError):
            with_retries(Work(9), processes.wait, print)
        assert time.monotonic() - begun < 8  # the first wait is of ten seconds or more
        stopper.join()


def test_what_is_in_the_way_is_waited_for_and_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    logged: list[str] = []
    work = Work(9)
    assert when_free(work, time.sleep, logged.append) == "done"
    assert logged == ["waiting: the server is away"]


def test_what_stays_in_the_way_is_raised_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    work = Work(10**6)
    with pytest.raises(TransientFlowError):
        when_free(work, time.sleep, print, timeout_s=0.05)
    assert work.attempts > 1
    work = Work(1)
    with pytest.raises(TransientFlowError):
        when_free(work, time.sleep, print, timeout_s=0)
    assert work.attempts == 1

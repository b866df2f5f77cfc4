"""What may pass by itself is tried again; a run that ends does not wait for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import FOREVER_S

from fer_pipeline.errors import FlowError, StoppedError, TransientFlowError
from flows.process import Processes, backoff


class Work:
    """Fails so many times, then succeeds."""

    def __init__(self, failures: int, error: type[FlowError] = TransientFlowError) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error("the server is away")
        return "done"


def test_a_transient_error_is_tried_again_and_logged_once(tmp_path: Path) -> None:
    logged: list[str] = []
    assert Processes(tmp_path).retry(Work(2), logged.append, [0.01] * 3) == "done"
    assert logged == ["waiting to try again: the server is away"]


@pytest.mark.parametrize(("error", "calls"), [(TransientFlowError, 3), (FlowError, 1)])
def test_the_last_error_is_raised_and_one_that_stays_at_once(
    error: type[FlowError], calls: int, tmp_path: Path
) -> None:
    work = Work(9, error)
    with pytest.raises(error, match="the server is away"):
        Processes(tmp_path).retry(work, print, [0.01] * 2)
    assert work.calls == calls


def test_each_wait_is_about_twice_as_long_as_the_one_before() -> None:
    assert [10 * 2**n <= wait <= 15 * 2**n for n, wait in enumerate(backoff())] == [True] * 3


def test_a_run_that_ends_waits_for_no_next_attempt(tmp_path: Path) -> None:
    here = Processes(tmp_path)
    with pytest.raises(StoppedError):
        here.retry(Work(9), lambda _: here.close(), [FOREVER_S])

"""What is tried again: only what a minute may mend, networks and locks."""

from __future__ import annotations

from typing import Any, TypedDict

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from flows.errors import PassingCommandError

RETRIES = 3
BACKOFF_S = 10.0


class RetryOptions(TypedDict):
    """The arguments of a Prefect task that have to do with trying again."""

    retries: int
    retry_delay_seconds: Any
    retry_jitter_factor: float
    retry_condition_fn: Any


def _may_pass(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), PassingCommandError)


RETRY: RetryOptions = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(BACKOFF_S),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_pass,
}

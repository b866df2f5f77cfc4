"""What is tried again: only what a minute may mend, networks and locks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from prefect.logging import get_run_logger

from flows.errors import PassingCommandError

RETRIES = 3
BACKOFF_S = 10.0

T = TypeVar("T")


def with_retries(work: Callable[[], T], rest: Callable[[float], None]) -> T:
    """Do it, and again where it failed for a reason that may pass.

    Not by Prefect's own retries: these sleep where no cancellation wakes them.

    Args:
        work: to do.
        rest: waits for so many seconds; what it raises ends the attempts.

    Raises:
        PassingCommandError: it has failed the last time, too.
    """
    for attempt in range(RETRIES):
        try:
            return work()
        except PassingCommandError as error:
            seconds = BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5)  # not all at once
            get_run_logger().warning("%s; tried again in %.0f s", error, seconds)
        rest(seconds)
    return work()

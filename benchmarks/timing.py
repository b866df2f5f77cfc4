"""What the benchmarks of training measure time with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    """How long some work takes, until the device has done it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def median_gap(ends: Sequence[float]) -> float:
    """Seconds from one moment to the next: what came before the first only warms everything up."""
    return statistics.median(later - earlier for earlier, later in pairwise(ends))

"""How many CPU threads torch computes with, chosen before it is imported where that is possible.

After every layer torch's threads wait for each other, and libgomp lets them wait by spinning. Where
another program takes a part of one core, the thread on that core is late each time, and the others
spend their share of the machine on waiting: with two threads on two busy cores that was more than
half of all CPU time. So there are as many threads as cores are free, and no more.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
"""What torch reads when it is imported; a user who sets it has chosen."""

CORES_VARIABLE = "FER_CORES"
"""The most cores that a stage shall use: a flow divides them among its trainings."""

MEASURED_S = 1.0
"""How long the use of the cores is watched."""

WATCHED_S = 60.0
"""How long a process that goes on keeps its number of threads before it looks again."""

NEGLIGIBLE = 0.3
"""Use of all cores together, as a fraction of one, that costs less than one thread fewer would."""

_STAT = Path("/proc/stat")


def choose_threads(processes: int = 1) -> int:
    """The number of free cores, shared among so many processes; at least 1. Takes a second.

    `FER_CORES` in the environment is the most that count.
    """
    return _share(free_cores(), processes)


class CoreWatch:
    """The number of free cores for a process that goes on, found without waiting.

    What the process itself has used since the last look counts as free.
    """

    def __init__(self) -> None:
        self._look()

    def threads(self) -> int | None:
        """As many as `choose_threads` gives, or None: it is too early to say, or nothing tells."""
        before, own, ticks = self._at, self._own, self._ticks
        if not _STAT.exists() or time.monotonic() - before < WATCHED_S:
            return None
        self._look()
        return _share(_free(ticks, self._ticks) + (self._own - own) / (self._at - before))

    def _look(self) -> None:
        self._at, self._own = time.monotonic(), time.process_time()
        self._ticks = _idle_and_total() if _STAT.exists() else {}


def _share(free: float, processes: int = 1) -> int:
    count, most = int(free + NEGLIGIBLE), os.environ.get(CORES_VARIABLE, "")
    return max(1, (min(count, int(most)) if most.isdecimal() else count) // processes)


def free_cores(seconds: float = MEASURED_S) -> float:
    """How many of the cores that this process may use are free: their idle time over a while.

    A core counts as free where the system does not say otherwise.
    """
    if not _STAT.exists():
        return float(os.cpu_count() or 1)
    before = _idle_and_total()
    time.sleep(seconds)
    return _free(before, _idle_and_total())


def _free(before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]]) -> float:
    free = float(len(os.sched_getaffinity(0)))
    for core, (idle, total) in after.items():
        idle_before, total_before = before.get(core, (idle, total))
        if total > total_before:
            free -= 1 - (idle - idle_before) / (total - total_before)
    return free


def _idle_and_total() -> dict[int, tuple[int, int]]:
    """Clock ticks of each core that this process may use."""
    usable, ticks = os.sched_getaffinity(0), {}
    for line in _STAT.read_text(encoding="ascii").splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in usable:
            spent = [int(value) for value in values[:8]]
            ticks[int(name[3:])] = spent[3] + spent[4], sum(spent)  # idle, and waiting for a disk
    return ticks

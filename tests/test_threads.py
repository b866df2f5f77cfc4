"""As many threads as cores are free, however many the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_pipeline import threads
from fer_pipeline.threads import WATCHED_S, CoreWatch, choose_threads, free_cores

STAT = "cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 {user} 0 0 {idle} 0 0 0 0 0 0\nintr 5\n"


@pytest.mark.parametrize(
    ("free", "processes", "wanted"),
    [
        (2.0, 1, 2),
        (1.75, 1, 2),  # a fifth of a core costs less than one of two threads
        (1.5, 1, 1),
        (1.0, 1, 1),
        (0.1, 1, 1),
        (15.9, 1, 16),
        (2.0, 2, 1),
        (1.0, 2, 1),
        (13.5, 4, 3),
    ],
)
def test_there_is_a_thread_for_each_free_core(
    free: float, processes: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "free_cores", lambda: free)
    assert choose_threads(processes) == wanted


def test_free_is_what_cores_idle_while_they_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(user=900, idle=100))
    monkeypatch.setattr(threads, "_STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    watched: list[float] = []

    def go_on(seconds: float) -> None:
        watched.append(seconds)
        stat.write_text(STAT.format(user=925, idle=175))

    monkeypatch.setattr(threads.time, "sleep", go_on)
    assert free_cores(0.5) == pytest.approx(0.75)
    assert watched == [0.5]


def test_a_process_that_goes_on_takes_the_cores_that_others_leave_it_and_has_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, now, own = tmp_path / "stat", [1000.0], [0.0]
    monkeypatch.setattr(threads, "_STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threads.time, "process_time", lambda: own[0])
    busy = [0, 0]

    def go_on(passed: float, others: float, self_s: float) -> None:
        """Both cores in turn: ticks are hundredths of a second."""
        now[0], own[0] = now[0] + passed, own[0] + self_s
        busy[0], busy[1] = busy[0] + int(100 * others), busy[1] + int(100 * self_s)
        ticks = int(100 * (now[0] - 1000))
        stat.write_text(
            "".join(f"cpu{n} {used} 0 0 {ticks - used} 0 0 0 0\n" for n, used in enumerate(busy))
        )

    go_on(0, 0, 0)
    watch = CoreWatch()
    go_on(WATCHED_S - 1, 0, 0)
    assert watch.threads() is None
    go_on(1, WATCHED_S - 1, WATCHED_S - 1)  # another program has one core, this process the other
    assert watch.threads() == 1
    go_on(WATCHED_S, 0, WATCHED_S)
    assert watch.threads() == 2
    stat.unlink()
    now[0] += WATCHED_S
    assert watch.threads() is CoreWatch().threads() is None


def test_where_the_system_does_not_tell_all_cores_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_STAT", tmp_path / "missing")
    assert free_cores() == os.cpu_count()


def test_where_the_clocks_of_cores_stand_still_they_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stat").write_text(STAT.format(user=0, idle=0))
    monkeypatch.setattr(threads, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 7})  # no line has the other
    assert free_cores(0.01) == 2.0


def test_a_flow_says_how_many_cores_count_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "free_cores", lambda: 8.0)
    monkeypatch.setenv(threads.CORES_VARIABLE, "3")
    assert choose_threads() == 3


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux")
def test_a_core_that_works_is_not_free() -> None:
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in os.sched_getaffinity(0)
    ]
    try:
        assert free_cores() < 0.5 * len(loops)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()

"""As many threads as cores are free, however many the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_pipeline import threads
from fer_pipeline.threads import choose_threads, free_cores

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

"""Locks: one holder at a time, free with the end of the holder, whatever that is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from processes import wait_until

from flows.slots import take_lock

HOLD = """
import sys
from pathlib import Path
from flows.slots import take_lock
lock = take_lock(Path(sys.argv[1]), "another process")
print("held", flush=True)
sys.stdin.read()
"""
STAY = [sys.executable, "-S", "-c", "print('up', flush=True); input()"]


def taken(path: Path, holder: str) -> IO[str]:
    """The lock, which is free."""
    lock = take_lock(path, holder)
    assert lock is not None
    return lock


def test_one_holder_at_a_time_and_its_note_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where.lock"
    lock = taken(path, "a holder with a long name")
    assert take_lock(path, "another") is None
    assert path.read_text() == "a holder with a long name"
    lock.close()
    lock = taken(path, "another")
    assert path.read_text() == "another"
    assert take_lock(path, "the first again") is None
    lock.close()


@pytest.mark.slow
def test_a_killed_holder_holds_nothing(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert take_lock(path, "this one") is None
        assert path.read_text() == "another process"
        holder.kill()
    taken(path, "this one").close()


@pytest.mark.slow
def test_a_child_that_was_not_given_the_lock_does_not_hold_it(tmp_path: Path) -> None:
    lock = taken(tmp_path / "lock", "the parent")
    with subprocess.Popen(
        STAY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock.close()
        taken(tmp_path / "lock", "the next").close()
        child.kill()


@pytest.mark.slow
def test_a_child_that_was_given_the_lock_holds_it_to_its_end(tmp_path: Path) -> None:
    lock = taken(tmp_path / "lock", "the parent")
    with subprocess.Popen(
        STAY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[lock.fileno()]
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock.close()
        assert take_lock(tmp_path / "lock", "too early") is None
        child.kill()
    wait_until(lambda: take_lock(tmp_path / "lock", "the next")).close()

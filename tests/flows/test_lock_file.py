"""Locks: one holder at a time, free with the end of the holder, whatever that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_until

from flows.slots import LockFile

HOLD = """
import sys
from pathlib import Path
from flows.slots import LockFile
assert LockFile(Path(sys.argv[1])).acquire("another process")
print("held", flush=True)
sys.stdin.read()
"""


def hold_elsewhere(path: Path, root: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_one_holder_at_a_time_and_its_note_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where.lock"
    one, other = LockFile(path), LockFile(path)
    assert one.acquire("a holder with a long name")
    assert not other.acquire("another")
    assert other.holder() == "a holder with a long name"
    one.release()
    assert other.acquire("another")
    assert one.holder() == "another"
    assert not one.acquire("the first again")
    other.release()


def test_a_release_without_a_take_does_nothing(tmp_path: Path) -> None:
    one, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert one.acquire("one")
    other.release()
    assert not other.acquire("other")
    one.release()
    one.release()
    assert other.acquire("other")
    other.release()


@pytest.mark.slow
def test_a_killed_holder_holds_nothing(tmp_path: Path, root: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    with hold_elsewhere(tmp_path / "lock", root) as holder:
        assert not lock.acquire("this one")
        assert lock.holder() == "another process"
        holder.kill()
    assert lock.acquire("this one")
    lock.release()


@pytest.mark.slow
def test_a_child_that_was_not_given_the_lock_does_not_hold_it(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    assert lock.acquire("the parent")
    command = [sys.executable, "-S", "-c", "print('up', flush=True); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock.release()
        assert lock.acquire("the next")
        child.kill()
    lock.release()


@pytest.mark.slow
def test_a_child_that_was_given_the_lock_holds_it_to_its_end(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    assert lock.acquire("the parent")
    command = [sys.executable, "-S", "-c", "print('up', flush=True); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[lock.fd]
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        lock.release()
        assert not lock.acquire("too early")
        child.kill()
    wait_until(lambda: lock.acquire("the next"), within_s=2)
    lock.release()

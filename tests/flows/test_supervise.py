"""The supervisor with real processes: whatever happens to whom, nothing of the command is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from processes import (
    DAEMON,
    FOREVER_S,
    READY,
    SLEEP,
    STUBBORN,
    WITHIN_S,
    alive,
    python,
    supervised,
    wait_until,
)

from flows import supervise as module

pytestmark = pytest.mark.slow

SUPERVISE = [sys.executable, str(Path(module.__file__))]
GRACE = ("--grace-s", "0.3")


def supervise(command: Sequence[str], *options: str) -> subprocess.Popen[str]:
    """Start a command under the supervisor, whose pipe stays open until a test closes it."""
    return subprocess.Popen(
        [*SUPERVISE, *options, "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def close(child: subprocess.Popen[str]) -> None:
    """Cut the pipe."""
    assert child.stdin is not None
    child.stdin.close()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def wait_for_end(child: subprocess.Popen[str]) -> int:
    """Its exit status; its pipes are closed."""
    status = child.wait(WITHIN_S)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream:
            stream.close()
    return status


@pytest.mark.parametrize("status", [0, 1, 77])
def test_the_exit_status_is_the_commands(status: int, mark: str) -> None:
    assert wait_for_end(supervise(python(f"raise SystemExit({status})", mark))) == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_ended_the_command_is_told(number: signal.Signals, mark: str) -> None:
    # Without a core file in the folder.
    code = f"import os, resource; resource.setrlimit(4, (0, 0)); os.kill(os.getpid(), {number})"
    assert wait_for_end(supervise(python(code, mark))) == 128 + number


def test_a_missing_program_is_127_and_one_line() -> None:
    child = supervise(["no-such-program"])
    assert child.wait(WITHIN_S) == 127
    assert child.stderr is not None
    assert child.stderr.read().splitlines() == [
        "no-such-program can't be started: No such file or directory"
    ]
    wait_for_end(child)


def test_the_command_does_not_read_the_pipe(mark: str) -> None:
    child = supervise(python("import sys; print(repr(sys.stdin.read()))", mark))
    assert line(child) == "''"
    assert wait_for_end(child) == 0


def test_the_deadline_ends_the_command(mark: str) -> None:
    child = supervise(python(SLEEP, mark), "--deadline-s", "0.5")
    assert wait_for_end(child) == 124
    assert alive(mark) == []


def test_a_command_within_its_deadline_is_left_alone(mark: str) -> None:
    child = supervise(python("import time; time.sleep(0.2)", mark), "--deadline-s", "30")
    assert wait_for_end(child) == 0


GROUP = f"""
import os
for _ in range(3):
    if os.fork() == 0:
        break
{SLEEP}
"""
DAEMON_OF_A_SLEEPER = f"{DAEMON}\nimport time; time.sleep({FOREVER_S})"
STUBBORN_DAEMON = f"import signal; signal.signal(15, signal.SIG_IGN)\n{DAEMON_OF_A_SLEEPER}"
CASES = {
    "command": (SLEEP, 1),
    "that ignores SIGTERM": (STUBBORN, 1),
    "group": (GROUP, 4),
    "daemon": (DAEMON_OF_A_SLEEPER, 2),
    "daemon that ignores SIGTERM": (STUBBORN_DAEMON, 2),
    "stopped": (f"import os; {READY}; os.kill(os.getpid(), 19)", 1),
}


@pytest.mark.parametrize(("code", "processes"), CASES.values(), ids=CASES.keys())
def test_a_cut_pipe_ends_everything(code: str, processes: int, mark: str) -> None:
    child = supervise(python(code, mark), *GRACE)
    for _ in range(1 if "setsid" in code else processes):
        assert line(child) == "ready"
    wait_until(lambda: len(supervised(mark)) == processes)
    close(child)
    assert wait_for_end(child) == 143
    assert alive(mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_everything(number: signal.Signals, mark: str) -> None:
    child = supervise(python(DAEMON_OF_A_SLEEPER, mark), *GRACE)
    assert line(child) == "ready"
    child.send_signal(number)
    assert wait_for_end(child) == 143
    assert alive(mark) == []


def test_a_command_is_told_to_end_once_and_has_its_grace(mark: str) -> None:
    # What saves its work after SIGTERM must not be interrupted in that by a second one.
    code = """
import signal, time
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(1))
print('ready', flush=True)
while not received:
    time.sleep(0.01)
end = time.monotonic() + 0.5
while time.monotonic() < end:
    time.sleep(0.01)
print(len(received), flush=True)
"""
    child = supervise(python(code, mark), "--grace-s", "10")
    assert line(child) == "ready"
    child.terminate()
    assert line(child) == "1"
    assert wait_for_end(child) == 143


def test_more_signals_do_not_disturb_the_ending(mark: str) -> None:
    child = supervise(python(STUBBORN, mark), "--grace-s", "1")
    assert line(child) == "ready"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        child.send_signal(number)
        time.sleep(0.05)
    assert wait_for_end(child) == 143
    assert alive(mark) == []


def test_the_death_of_who_started_it_ends_everything(mark: str) -> None:
    starter = f"""
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
time.sleep({FOREVER_S})
"""
    command = [*SUPERVISE, *GRACE, "--", *python(STUBBORN_DAEMON, mark)]
    with subprocess.Popen(
        [sys.executable, "-c", starter, *command], stdout=subprocess.PIPE, text=True
    ) as starting:
        try:
            assert line(starting) == "ready"
            # The starter, the supervisor, and what it runs, once the process between is gone.
            wait_until(lambda: len(alive(mark)) == 4)
        finally:
            starting.kill()
    wait_until(lambda: alive(mark) == [])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked for it")
def test_the_death_of_the_supervisor_itself_ends_the_command(mark: str) -> None:
    child = supervise(python(STUBBORN, mark))
    assert line(child) == "ready"
    child.kill()
    wait_until(lambda: alive(mark) == [])
    assert wait_for_end(child) == -signal.SIGKILL


@pytest.mark.parametrize("code", [STUBBORN, SLEEP])
def test_what_a_command_leaves_in_the_background_is_ended(code: str, mark: str) -> None:
    start = f"""
import subprocess
background = subprocess.Popen({python(code, mark)!r}, stdout=subprocess.PIPE)
print(background.stdout.readline().decode(), end="", flush=True)
raise SystemExit(7)
"""
    child = supervise(python(start, mark), *GRACE)
    assert line(child) == "ready"
    assert wait_for_end(child) == 7
    assert alive(mark) == []


def test_what_has_left_its_session_in_the_background_is_ended(tmp_path: Path, mark: str) -> None:
    stop = tmp_path / "stop"  # else the command may end before the daemon has said anything
    code = f"{DAEMON}\nwhile not os.path.exists({str(stop)!r}): time.sleep(0.01)"
    child = supervise(python(code, mark), *GRACE)
    assert line(child) == "ready"
    stop.touch()
    assert wait_for_end(child) == 0
    assert alive(mark) == []


@pytest.mark.skipif(sys.platform != "linux", reason="orphans come to the supervisor on Linux alone")
def test_an_orphan_that_has_ended_is_no_zombie_while_the_command_runs(mark: str) -> None:
    orphan = f"""
import os
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)  # once its parent has ended
    os._exit(0)
os.wait()
{SLEEP}"""
    child = supervise(python(orphan, mark), *GRACE)
    assert line(child) == "ready"
    supervisor = psutil.Process(child.pid)
    wait_until(lambda: len(supervisor.children(recursive=True)) == 1, "the orphan is gone")
    close(child)
    assert wait_for_end(child) == module.STOPPED_STATUS


def test_signals_that_were_ignored_outside_are_not_inside(mark: str) -> None:
    code = "from signal import *; print([getsignal(n) is SIG_IGN for n in (SIGINT, 15, 1)])"
    ignoring = ["sh", "-c", "trap '' INT TERM HUP; exec \"$@\"", "sh"]
    done = subprocess.run(
        [*ignoring, *python(code, mark)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[True, True, True]"
    read, write = os.pipe()
    done = subprocess.run(
        [*ignoring, *SUPERVISE, "--", *python(code, mark)],
        stdin=read,
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(read)
    os.close(write)
    assert done.stdout.strip() == "[False, False, False]"

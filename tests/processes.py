"""Real processes for tests: started with a mark on their command line, and looked for by it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psutil

WITHIN_S = 600.0
"""What tests wait for at most. It takes seconds on an idle machine; a busy one has its time."""

FOREVER_S = 3600.0
"""What is to be ended sleeps for so long, so that it can't have ended by itself."""

READY = "import time; print('ready', flush=True)"
SLEEP = f"{READY}; time.sleep({FOREVER_S})"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
DAEMON = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {SLEEP}
    os._exit(0)
os.wait()
"""
"""It leaves its parent, its session and its group; what started it goes on after these lines."""


def new_mark() -> str:
    return f"mark-{uuid4().hex}"


def python(code: str, mark: str) -> list[str]:
    """A command that is up in no time; what it forks has the mark on its command line too."""
    return [sys.executable, "-I", "-S", "-c", code, mark]


def alive(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark, supervisors among them."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if mark in (process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def supervised(mark: str) -> list[psutil.Process]:
    """Those of them that are no supervisor."""
    return [one for one in alive(mark) if not any("supervise.py" in word for word in one.cmdline())]


def wait_until(happened: Callable[[], Any], what: str = "") -> Any:
    """Call `happened` until it returns something true, and return that; fail after `WITHIN_S`."""
    began = time.monotonic()
    while not (found := happened()):
        waited_s = time.monotonic() - began
        assert waited_s < WITHIN_S, f"not within {WITHIN_S:g} s: {what}"
        # Questions cost: those who wait for long ask less often.
        time.sleep(min(0.05 + waited_s / 20, 0.5))
    return found


def output_of(process: subprocess.Popen[str]) -> str:
    """What a process printed when it has ended; one that does not end is killed."""
    try:
        return process.communicate(timeout=WITHIN_S)[0]
    except subprocess.TimeoutExpired:
        end_tree(process.pid)
        output, _ = process.communicate()
        raise AssertionError(f"still running after {WITHIN_S:g} s:\n{output}") from None


def kill_all(mark: str) -> None:
    """What a failed test may have left."""
    for process in alive(mark):
        process.kill()


def processes_with(mark: str) -> list[str]:
    """The command lines that hold a mark, or whose working folder does, without this process."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "status"]):
        about = process.info
        words = " ".join(about["cmdline"] or [])
        here = f"{about['cwd'] or ''}/"
        if about["pid"] != os.getpid() and (mark in words or mark in here):
            found.append(f"{about['pid']} {about['status']} {words}")
    return found


def assert_none_left(mark: str) -> None:
    """Processes with a mark end within a while; a failure names those that do not."""
    left: list[str] = []

    def none_left() -> bool:
        left[:] = processes_with(mark)
        return not left

    try:
        wait_until(none_left, f"none with {mark} is left")
    except AssertionError as error:
        raise AssertionError(f"{error}: {left}") from None


def kill_where(variable: str, value: str, word: str = "") -> None:
    """Kill all processes at once that have a variable of their environment at this value.

    With a word only those that have it on their command line.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(variable) == value and word in " ".join(process.cmdline()):
                found.append(process)
    _kill(found)


def end_tree(pid: int) -> None:
    """Kill a process and all below it."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    _kill([*root.children(recursive=True), root])


def _kill(processes: list[psutil.Process]) -> None:
    """Kill processes, and wait until they have ended: their parents may be slow to notice."""
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    wait_until(lambda: not any(map(_is_alive, processes)), "all are killed")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""Runs a command, and ends all its processes when the process that started this one ends.

    python supervise.py [--deadline-s S] [--grace-s S] -- COMMAND ...

Its standard input is a pipe whose other end is held by the process that started it. When that
process ends, by whatever cause, the pipe closes, and the command is ended. The same happens on
SIGTERM and SIGINT, and after the deadline. Ending means SIGTERM to the command's process group,
SIGKILL after the grace period, and then both for every descendant that has left the group.

Exit status: the command's, 128 + N if signal N ended it, 124 after the deadline, 143 if it was
told to stop. It imports nothing of Prefect, which would take seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from threading import Thread

import psutil

DEADLINE_STATUS = 124
STOPPED_STATUS = 143

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_AWAITED = (*_ENDING, signal.SIGCHLD, signal.SIGALRM)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deadline-s", type=float, default=0.0)
    parser.add_argument("--grace-s", type=float, default=5.0)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc:
        # Orphans among the descendants become children of this process, and so can be found.
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _AWAITED:  # one that is ignored, as in what a script starts with '&', is lost
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)

    def prepare_child() -> None:
        for number in _AWAITED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        if libc:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        child = subprocess.Popen(
            arguments.command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare_child,  # single-threaded here, so it is safe
        )
    except OSError as error:
        print(f"{arguments.command[0]} can't be started: {error.strerror}", file=sys.stderr)
        return 127
    Thread(target=_stop_at_end_of_pipe, daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, arguments.deadline_s)
    reason = _wait(child)
    _end(child, arguments.grace_s)
    if reason is not None:
        return reason
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _stop_at_end_of_pipe() -> None:
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    """Wait for the command; gives the exit status if it is to be ended, None if it has ended."""
    while child.poll() is None:
        number = signal.sigwait(_AWAITED)
        if number != signal.SIGCHLD:
            return DEADLINE_STATUS if number == signal.SIGALRM else STOPPED_STATUS
        _reap_orphans(child.pid)
    return None


def _reap_orphans(command: int) -> None:
    """Let orphans that have ended go: of a command that runs for weeks they would fill the system.

    Args:
        command: the process that is waited for elsewhere.
    """
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if one.pid != command and one.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(one.pid, os.WNOHANG)


def _end(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """End the command's group, and every descendant that is left."""
    running = child.poll() is None  # else the number of its group may be another's by now
    if running:
        os.killpg(child.pid, signal.SIGTERM)
    strays = psutil.Process().children(recursive=True)
    for stray in strays:
        # Once is enough: a second SIGTERM may interrupt what the first one began.
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if not (running and os.getpgid(stray.pid) == child.pid):
                stray.terminate()
    psutil.wait_procs(strays, timeout=grace_s)
    while left := psutil.Process().children(recursive=True):  # some fork while they are listed
        for stray in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                stray.kill()
        psutil.wait_procs(left, timeout=grace_s)


if __name__ == "__main__":
    sys.exit(main())

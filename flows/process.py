"""The commands of a flow run: started under the supervisor, read while they run, and ended."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from threading import Event, Lock
from typing import IO, Any, TypeVar

from fer_pipeline.errors import FerError, FlowError, StoppedError, TransientFlowError
from fer_pipeline.events import VARIABLE, Listener
from flows.supervise import DEADLINE_STATUS

GRACE_S = 5.0
"""Seconds that a command has after SIGTERM to end by itself."""

POLL_S = 0.5
"""Seconds between attempts to take what another process holds."""

RETRIES = 3
BACKOFF_S = 10.0
"""Seconds before the first further attempt of a command that failed; each next wait doubles."""

T = TypeVar("T")

_LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
"""What DVC prints when another of its processes works with the same files."""

_SUPERVISOR = Path(__file__).with_name("supervise.py")


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
        status: its exit status.
        lines: what it printed to either stream.
        error: the message of the error event that it sent, or empty.
        transient: whether that event said that the same command may succeed a minute later.
    """

    status: int = 0
    lines: list[str] = field(default_factory=list)
    error: str = ""
    transient: bool = False

    def require_success(self, what: str) -> Outcome:
        """Return this outcome if the exit status is 0.

        Raises:
            TransientFlowError: the command failed, and may succeed a minute later.
            FlowError: the command failed.
        """
        if self.status == 0:
            return self
        kind = TransientFlowError if self.transient else FlowError
        raise kind(f"{what} failed: {self.error or f'exit status {self.status}, see its log'}")

    def stage_ran(self, stage: str, deadline_s: float | None) -> bool:
        """Whether DVC, of which this is the outcome, ran a stage's command; it may know the outs.

        Raises:
            TransientFlowError: it failed, and may succeed a minute later.
            FlowError: it failed, or was ended after its deadline.
        """
        if self.status == DEADLINE_STATUS and deadline_s is not None:
            raise FlowError(
                f"{stage} was ended after its deadline of {deadline_s / 3600:g} hours: raise "
                f"meta.deadline_h in dvc.yaml if it needs more"
            )
        locked = next(filter(_LOCKED.search, self.lines), None)
        if locked and not self.error:
            self.error, self.transient = locked, True
        self.require_success(stage)
        return any(line.startswith("Running stage '") for line in self.lines)

    def document(self) -> dict[str, Any]:
        """The JSON object that the command printed, after any lines before it."""
        start = next(n for n, line in enumerate(self.lines) if line.startswith("{"))
        text = "\n".join(self.lines[start:])
        document: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
        return document


class Processes:
    """The commands that run for one flow run; `close` ends them all.

    Each has a supervisor that reads from a pipe. This process holds the writing end, so that its
    death, of whatever kind, ends the commands too.

    Attributes:
        folder: in which the commands run.
        env: variables for every command, over this process's own environment.
        locks: descriptors of locks that every command holds until its last process is gone.
        closed: set when the run is ending.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}
        self.locks: list[int] = []
        self._running: set[subprocess.Popen[str]] = set()
        self.closed = Event()
        self._starting = Lock()

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run.

        Raises:
            StoppedError: the run is ending.
        """
        if self.closed.wait(seconds):
            raise StoppedError("the run ended while it waited")

    def retry(
        self, work: Callable[[], T], log: Callable[[str], None], delays_s: Iterable[float]
    ) -> T:
        """Call `work`, and again after each delay while the error is one that may pass.

        Prefect's own retries sleep where no cancellation wakes them.

        Args:
            work: what is called; it raises a transient error if a later call may succeed.
            log: called with each new error.
            delays_s: seconds between the calls, each asked for after a call.

        Raises:
            FerError: the last call failed, too, or one with an error that stays.
            StoppedError: the run is ending.
        """
        logged, delays = "", iter(delays_s)
        while True:
            try:
                return work()
            except FerError as error:
                delay = next(delays, None)
                if not error.transient or delay is None:
                    raise
                if str(error) != logged:
                    logged = str(error)
                    log(f"waiting to try again: {error}")
            self.wait(delay)

    def run(
        self,
        command: Sequence[str],
        log: Callable[[str], None],
        *,
        env: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        locks: Sequence[int] = (),
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> Outcome:
        """Run a command to its end; may be called from several threads.

        Args:
            command: its program is searched for beside this interpreter, then on PATH.
            log: called with each line that the command prints to either stream.
            env: variables over those of all commands.
            deadline_s: after so many seconds the command is ended.
            locks: descriptors of further locks that this command holds.
            on_event: called with the kind and content of each event of `fer_pipeline.events`
                other than an error.

        Raises:
            StoppedError: the run is ending, or ended meanwhile.
        """
        outcome = Outcome()
        options = ["--grace-s", str(GRACE_S)]
        options += ["--deadline-s", str(deadline_s)] if deadline_s else []
        with tempfile.TemporaryDirectory(prefix="fer-events-") as folder:
            file = Path(folder) / "events.jsonl"
            events = Listener(file)
            env = {**self.env, **(env or {}), VARIABLE: str(file)}
            with self._starting:
                if self.closed.is_set():
                    raise StoppedError(f"not started, because the run is ending: {command[0]}")
                child = start_supervised(
                    command, self.folder, env, *options, locks=[*self.locks, *locks]
                )
                self._running.add(child)
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    if text := line.rstrip():
                        log(text)
                        outcome.lines.append(text)
                        _read_events(events, outcome, on_event)
                outcome.status = child.wait()
            finally:
                end_supervised(child)
                with self._starting:
                    self._running.discard(child)
            _read_events(events, outcome, on_event)
        if self.closed.is_set():
            raise StoppedError(f"stopped, because the run is ending: {command[0]}")
        return outcome

    def close(self) -> None:
        """End all commands and start no more; returns when all have ended."""
        with self._starting:
            self.closed.set()
            running = list(self._running)
        for child in running:
            child.terminate()
        for child in running:
            child.wait()


def backoff() -> list[float]:
    """Seconds to wait before each further attempt of a command: about 10, 20 and 40."""
    return [BACKOFF_S * 2**n * random.uniform(1.0, 1.5) for n in range(RETRIES)]  # not all at once


def patience() -> list[float]:
    """The same, and then a minute each for half an hour: for what hours of training depend on."""
    return [*backoff(), *repeat(60.0, 30)]


def _read_events(
    events: Listener, outcome: Outcome, on_event: Callable[[str, dict[str, Any]], None] | None
) -> None:
    for event in events.read():
        kind = event.pop("event")
        if kind == "error":
            outcome.error, outcome.transient = event["message"], event["transient"]
        elif on_event:
            on_event(kind, event)


def start_supervised(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    *options: str,
    stdout: IO[str] | int = subprocess.PIPE,
    locks: Sequence[int] = (),
) -> subprocess.Popen[str]:
    """Start a command under a supervisor that ends it when this process dies."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.Popen(
        [sys.executable, str(_SUPERVISOR), *options, "--", *command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **env},
        stdin=subprocess.PIPE,
        text=True,
        errors="replace",
        stdout=stdout,
        stderr=subprocess.STDOUT,
        pass_fds=tuple(locks),
        start_new_session=True,  # Ctrl-C reaches the flow, which ends its commands in order
    )


def end_supervised(child: subprocess.Popen[str]) -> None:
    """Close the pipe to the supervisor, and wait until it has ended the command."""
    if child.stdin:
        child.stdin.close()
    child.wait()
    if child.stdout:
        child.stdout.close()

"""The flow's side of its child processes: started under a supervisor, listened to, and stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import IO

from flows.errors import StoppedError

GRACE_S = 5.0
"""What a stage has, after SIGTERM, to end by itself."""

_SUPERVISOR = Path(__file__).with_name("supervise.py")


@dataclass
class Children:
    """The commands that run for one flow run; all have ended when the block ends.

    Each has a supervisor that holds the reading end of a pipe. This process has the writing end,
    so that its death, of whatever kind, ends them too.
    """

    folder: Path
    _running: set[subprocess.Popen[str]] = field(default_factory=set)
    _stopped: Event = field(default_factory=Event)
    _guard: Lock = field(default_factory=Lock)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def rest(self, seconds: float) -> None:
        """Wait so long, but not beyond the run's end.

        Raises:
            StoppedError: the run is ending.
        """
        if self._stopped.wait(seconds):
            raise StoppedError("no longer waited, for the run is ending")

    def run(
        self,
        command: Sequence[str],
        on_line: Callable[[str], None],
        env: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        held: Sequence[int] = (),
    ) -> int:
        """Run a command to its end; may be called from several threads.

        Args:
            command: its first word is looked up where this interpreter lives, then on PATH.
            on_line: called with each line that it prints to either stream.
            env: over this process's own environment.
            deadline_s: when it is ended at the latest.
            held: descriptors of locks that stay held until the last of its processes is gone.

        Returns:
            Its exit status, as `supervise` gives it.

        Raises:
            StoppedError: the run is ending, or ended meanwhile.
        """
        with self._guard:
            if self.stopped:
                raise StoppedError(f"not started, for the run is ending: {command[0]}")
            child = _start(command, self.folder, env or {}, deadline_s, held)
            self._running.add(child)
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if text := line.rstrip():
                    on_line(text)
            status = child.wait()
        finally:
            end(child)
            with self._guard:
                self._running.discard(child)
        if self.stopped:
            raise StoppedError(f"stopped, for the run is ending: {command[0]}")
        return status

    def stop(self) -> None:
        """End whatever runs, and start nothing more; returns when all has ended."""
        with self._guard:
            self._stopped.set()
            running = list(self._running)
        for child in running:
            child.terminate()
        for child in running:
            child.wait()


def start_supervised(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    *options: str,
    stdout: IO[str] | int,
    held: Sequence[int] = (),
) -> subprocess.Popen[str]:
    """Start a command under a supervisor whose lifeline this process holds."""
    bin_folder = str(Path(sys.executable).parent)
    path = f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.Popen(
        [sys.executable, str(_SUPERVISOR), *options, "--", *command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **env},
        stdin=subprocess.PIPE,
        text=True,
        errors="replace",
        stdout=stdout,
        stderr=subprocess.STDOUT,
        pass_fds=tuple(held),
        start_new_session=True,  # Ctrl-C reaches the flow, which ends its children in order
    )


def end(child: subprocess.Popen[str]) -> None:
    """Cut the lifeline and wait until the supervisor has done its work."""
    if child.stdin:
        child.stdin.close()
    child.wait()
    if child.stdout:
        child.stdout.close()


def _start(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    deadline_s: float | None,
    held: Sequence[int],
) -> subprocess.Popen[str]:
    options = ["--grace-s", str(GRACE_S)]
    if deadline_s is not None:
        options += ["--deadline-s", str(deadline_s)]
    return start_supervised(
        command,
        folder,
        env,
        *options,
        stdout=subprocess.PIPE,
        held=held,
    )

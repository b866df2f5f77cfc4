"""What every flow does around its work: the folder's lock, cancellation, and its own death."""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from itertools import repeat
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun, FailedRun, ObjectNotFound, PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from fer_pipeline.errors import (
    DataError,
    FerError,
    FlowError,
    StoppedError,
    TransientFlowError,
    one_line,
)
from fer_pipeline.repair import repair
from flows.crash import Pulse
from flows.process import POLL_S, Outcome, Processes, backoff
from flows.slots import take_lock

_ASK_SERVER_EVERY_S = 2.0
_JOIN_S = 1.0
LOCK = Path(".dvc/tmp/fer-flow.lock")
"""Held by the run that works in a folder; it names the last one that did."""
_CRASH_REPORTER = Path(__file__).with_name("crash.py")

_HINT = re.compile(
    r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config core.autostage|"
    r"Use `dvc push` to send your updates"
)
"""What DVC prints below each stage that it ran: advice to somebody at a terminal."""

T = TypeVar("T")


class Session:
    """One flow run that works in a folder.

    Attributes:
        folder: of `dvc.yaml`.
        name: the run, for messages and locks.
        processes: runs its commands; they have ended when the session ends.
        ended_as: what the run is to end as, whatever its work gives: it was cancelled, or the
            server has ended it.
    """

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        self.folder = folder
        self.name = f"flow run '{flow_run.get_name()}'"
        self.processes = Processes(folder)
        self._wait_s = wait_s
        self.ended_as: State[None] | None = None

    @property
    def run_id(self) -> UUID:
        return UUID(flow_run.get_id())

    def run(self, command: Sequence[str], **options: Any) -> Outcome:
        """Run a command, with its lines in the log of the flow run or task run.

        Args:
            command: to run in the folder.
            options: of `Processes.run`.

        Raises:
            StoppedError: the run is ending.
        """
        return self.processes.run(command, _log_line, **options)

    def when_free(self, work: Callable[[], T]) -> T:
        """Call `work` as soon as no other run or DVC command works in the folder.

        Raises:
            TransientFlowError: one still does when the run has waited for as long as it may.
            StoppedError: the run is ending.
        """
        polls = repeat(POLL_S, int(self._wait_s / POLL_S))
        return self.processes.retry(work, get_run_logger().info, polls)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of the folder until no command of this run is at work there any more.

        Files of DVC that a killed DVC has left torn are repaired first.

        Raises:
            TransientFlowError: another run, or a DVC command, works there.
            FlowError: the folder is no DVC project.
            StoppedError: the run was cancelled while it waited.
        """
        if not (self.folder / ".dvc").is_dir():
            raise FlowError(
                f"{self.folder.resolve()} is no DVC project: give the folder of dvc.yaml"
            )
        lock = self.when_free(self._take_lock)
        try:
            for step in self.when_free(self._repair):
                get_run_logger().info(step)
            self.processes.locks.append(lock)
            yield
        finally:
            self.processes.close()
            os.close(lock)

    def _take_lock(self) -> int:
        path = self.folder / LOCK
        if (lock := take_lock(path, self.name)) is None:
            raise TransientFlowError(
                f"{path.read_text(encoding='utf-8') or 'another run'} works in "
                f"{self.folder.resolve()}: wait until it has ended, or give this run a copy of "
                f"the project"
            )
        return lock

    def _repair(self) -> list[str]:
        try:
            return repair(self.folder)
        except DataError as error:  # a DVC command runs there
            raise TransientFlowError(str(error)) from error

    def task(self, name: str, work: Callable[[], T], description: str = "") -> Task[[], T]:
        """A task that retries the work; it ends as Failed, or as Cancelled where the run is ending.

        Args:
            name: on the run's page.
            work: what the task does; it may give the state that the task ends in.
            description: on the run's page.
        """

        def run() -> Any:
            try:
                return self.processes.retry(work, get_run_logger().warning, backoff())
            except StoppedError as error:
                return Cancelled(message=str(error))
            except FerError as error:
                return Failed(message=str(error))

        return task(
            name=name,
            task_run_name=name,
            description=description,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(run)

    def command(self, name: str, command: Sequence[str]) -> Outcome:
        """Run a command as a task of its own.

        Raises:
            FailedRun, CancelledRun: the state that the task has ended in.
        """
        work = self.task(name, lambda: self.run(command).require_success(name))
        return work(return_state=True).result()


def _log_line(line: str) -> None:
    if not _HINT.match(line):
        get_run_logger().info(line)


def run_in_session(
    work: Callable[[Session], State[None]],
    folder: Path,
    wait_s: float = 0.0,
    parent: UUID | None = None,
) -> State[None]:
    """Do the work of a flow until its end, a cancellation, or the death of this process.

    Args:
        work: what the flow does; what it returns counts unless the run was cancelled.
        folder: of `dvc.yaml`.
        wait_s: how many seconds to wait for another run or DVC command there.
        parent: the flow run that waits for this one, which ends when that has.

    Returns:
        The state that the flow ends in.
    """
    here = Session(folder, wait_s)
    _start_crash_reporter(here.run_id)
    try:
        with _listening(here, parent):
            state = work(here)
        return here.ended_as or state
    except (StoppedError, CancelledRun):
        return here.ended_as or _cancelled()
    except (FerError, FailedRun) as error:
        return Failed(message=str(error))
    finally:
        here.processes.close()


def _cancelled() -> State[None]:
    return Cancelled(message="The run was cancelled.")


@contextmanager
def server_errors(what: str) -> Iterator[None]:
    """Say of an error of the Prefect server that it may pass.

    Raises:
        TransientFlowError: the server does not answer, or not properly.
    """
    try:
        yield
    except (PrefectException, httpx.HTTPError) as error:
        raise TransientFlowError(f"{what}: the Prefect server: {one_line(error)}") from error


def _start_crash_reporter(run_id: UUID) -> None:
    """Start a process that reports this one's death, if it is killed before it ends by itself.

    It goes on after the session, because the final state is reported to the server after that.
    """
    reporter = subprocess.Popen(
        [sys.executable, str(_CRASH_REPORTER), str(run_id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=False,  # it inherits the pipe to a temporary server, which lives as long
    )
    # `communicate` ignores a broken pipe: the reporter may have been killed.
    atexit.register(reporter.communicate, b".")


@contextmanager
def _listening(here: Session, parent: UUID | None) -> Iterator[None]:
    """End the session when the run is cancelled or given up on the server, or its parent has ended.

    A worker ends the processes of its runs; a run that was started by hand has no worker.
    """
    ended, run_id = Event(), here.run_id
    pulse = Pulse(parent, beats=False) if parent else None

    def end_of(client: SyncPrefectClient) -> State[None] | None:
        state = client.read_flow_run(run_id).state
        if state is not None and state.is_final():
            # Such as Failed, where nobody has answered a question in time. Prefect would sum up a
            # state that came from its server, and lose its words.
            return State(type=state.type, name=state.name, message=state.message)
        if state is not None and state.is_cancelling():
            return _cancelled()  # the server refuses all other states after that
        if parent is None or pulse is None:
            return None
        run = client.read_flow_run(parent)
        gone = run.state is not None and (run.state.is_cancelling() or run.state.is_final())
        return _cancelled() if gone or pulse.is_lost(client, run) else None

    def listen() -> None:
        with get_client(sync_client=True) as client:
            while not ended.wait(_ASK_SERVER_EVERY_S):
                try:
                    end = end_of(client)
                except ObjectNotFound:
                    end = _cancelled()  # somebody has deleted the run
                except (PrefectException, httpx.HTTPError):
                    continue  # a training goes on while the server is away
                if end:
                    if not ended.is_set():
                        here.ended_as = end
                        here.processes.close()
                    return

    # With the settings of this run, which Prefect keeps in the context.
    listener = Thread(target=copy_context().run, args=(listen,), daemon=True)
    listener.start()
    try:
        yield
    finally:
        ended.set()
        listener.join(_JOIN_S)  # a server that is away may keep it longer

"""What every flow does around its work: the folder's lock, its commands, and its end."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat, takewhile
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun, FailedRun
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from fer_pipeline.errors import FerError, FlowError, StoppedError
from fer_pipeline.repair import repair
from flows import runs
from flows.process import POLL_S, Outcome, Processes, backoff
from flows.slots import require_lock

LOCK = Path(".dvc/tmp/fer-flow.lock")
"""Held by the run that works in a folder; it names the last one that did."""

_HINT = re.compile(
    r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config core.autostage|"
    r"Use `dvc push` to send your updates"
)
"""What DVC prints below each stage that it ran: advice to somebody at a terminal."""

# For a Failed state that a task returns, Prefect logs the traceback of no exception, which reads
# "NoneType: None", and then the state once more.
logging.getLogger("prefect.task_runs").addFilter(
    lambda record: record.exc_info != (None, None, None)
)

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
            FerError: one still does when the run has waited for as long as it may.
            StoppedError: the run is ending.
        """
        end = time.monotonic() + self._wait_s
        polls = takewhile(lambda _: time.monotonic() < end, repeat(POLL_S))
        return self.processes.retry(work, get_run_logger().info, polls)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of the folder until no command of this run is at work there any more.

        Files of DVC that a killed DVC has left torn are repaired first.

        Raises:
            TransientFlowError, DvcBusyError: another run, or a DVC command, works there.
            FlowError: the folder is no DVC project.
            StoppedError: the run was cancelled while it waited.
        """
        folder = self.folder
        if not (folder / ".dvc").is_dir():
            raise FlowError(f"{folder.resolve()} is no DVC project: give the folder of dvc.yaml")
        with self.when_free(lambda: require_lock(folder / LOCK, self.name, folder)) as lock:
            for step in self.when_free(lambda: repair(folder)):
                get_run_logger().info(step)
            self.processes.locks.append(lock.fileno())
            try:
                yield
            finally:
                self.processes.close()

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

    def end(state: State[None]) -> None:
        here.ended_as = state
        here.processes.close()

    runs.report_if_killed(here.run_id)
    try:
        with runs.watching(here.run_id, parent, end):
            state = work(here)
        return here.ended_as or state
    except (StoppedError, CancelledRun):
        return here.ended_as or runs.cancelled()
    except (FerError, FailedRun) as error:
        return Failed(message=str(error))
    finally:
        here.processes.close()

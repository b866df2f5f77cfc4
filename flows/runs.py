"""How flow runs end on the Prefect server, whatever ends them: cancelled, given up, killed.

    python -m flows.runs FLOW_RUN_ID

reports that the process of a run was killed. A run would say Running for ever without that.
Prefect's heartbeats do the same a few minutes later, where a server runs an automation on them
(docs/flows.md); that is the way for a machine that goes down as a whole.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Crashed

from fer_pipeline.errors import TransientFlowError, one_line

SILENT_AFTER_S = 100.0
"""Seconds without a heartbeat after which a run's machine counts as lost."""

START_WITHIN_S = 900.0
"""Seconds for a run that was taken to begin: its machine or image may have to come first."""

_ASK_SERVER_EVERY_S = 2.0
_ASK_FOR_BEATS_EVERY_S = 5.0
_JOIN_S = 1.0


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


def close_run(client: SyncPrefectClient, flow_run_id: UUID, message: str) -> State[Any]:
    """Give a run and its tasks a final state, unless they have one or wait for a later start.

    Returns:
        The state that the run is in then.
    """
    present = cast("State[Any]", client.read_flow_run(flow_run_id).state)  # it has begun
    if present.is_scheduled():
        return present
    cancelled = present.is_cancelling() or present.is_cancelled()
    final: State[Any] = (Cancelled if cancelled else Crashed)(message=message)
    if not present.is_final():
        client.set_flow_run_state(flow_run_id, final, force=True)
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    for task in client.read_task_runs(flow_run_filter=of_run):
        if task.state is None or not task.state.is_final():
            client.set_task_run_state(task.id, final, force=True)
    return present if present.is_final() else final


def settle(state: State[Any]) -> State[Any]:
    """The state that a run has ended in: Cancelled if it was cancelled just before its end.

    The server refuses all other states then, and keeps the run at Cancelling.
    """
    if not state.is_cancelling():
        return state
    run_id = cast("UUID", state.state_details.flow_run_id)  # the server has set it
    with get_client(sync_client=True) as client:
        return close_run(client, run_id, "The run was cancelled.")


def report_if_killed(run_id: UUID) -> None:
    """Have the death of this process reported, if it is killed before it ends by itself.

    A shell waits for the end of a pipe, and costs next to nothing; most runs end well. It goes on
    after the flow, because the final state is reported to the server after that.
    """
    report = [sys.executable, "-m", "flows.runs", str(run_id)]
    reporter = subprocess.Popen(
        ["sh", "-c", 'read -r _ || exec "$@"', "sh", *report],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=False,  # it inherits the pipe to a temporary server, which lives as long
    )
    # `communicate` ignores a broken pipe: the reporter may have been killed.
    atexit.register(reporter.communicate, b"\n")


@contextmanager
def watching(
    run_id: UUID, parent: UUID | None, end: Callable[[State[None]], None]
) -> Iterator[None]:
    """Call `end` when a run is cancelled or given up on the server, or its parent has ended.

    A worker ends the processes of its runs; a run that was started by hand has no worker.

    Args:
        run_id: of this run.
        parent: the run that waits for this one, if there is one.
        end: called once, in another thread, with the state that this run is to end in.
    """
    over = Event()
    pulse = Pulse(parent, beats=False) if parent else None

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(_ASK_SERVER_EVERY_S):
                try:
                    state = _end_of(client, run_id, pulse)
                except (PrefectException, httpx.HTTPError):
                    continue  # a training goes on while the server is away
                if state and not over.is_set():
                    end(state)
                    return

    # With the settings of this run, which Prefect keeps in the context.
    watcher = Thread(target=copy_context().run, args=(watch,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(_JOIN_S)  # a server that is away may keep it longer


def cancelled() -> State[None]:
    return Cancelled(message="The run was cancelled.")


def _end_of(client: SyncPrefectClient, run_id: UUID, parent: Pulse | None) -> State[None] | None:
    """The state that the server, or the parent's end, wants a run to end in."""
    try:
        state = client.read_flow_run(run_id).state
        if state is not None and state.is_final():
            # Such as Failed, where nobody has answered a question in time. Prefect would sum up a
            # state that came from its server, and lose its words.
            return State(type=state.type, name=state.name, message=state.message)
        if state is not None and state.is_cancelling():
            return cancelled()  # the server refuses all other states after that
        return cancelled() if parent and parent.has_ended(client) else None
    except ObjectNotFound:
        return cancelled()  # somebody has deleted the run


class Pulse:
    """Tells whether the process of a run on another machine still lives.

    No clock of another machine counts: what counts is how long nothing new has been seen here. A
    server that was away, or a test of it that was late, begins the count again.

    Args:
        run_id: of the run.
        beats: whether it is known to send heartbeats; if not, its first one says so.
    """

    def __init__(self, run_id: UUID, *, beats: bool) -> None:
        self._run_id, self._beats = run_id, beats
        self._seen: object = None
        self._since = self._asked = time.monotonic()

    def has_ended(self, client: SyncPrefectClient) -> bool:
        """Whether the run is ending or lost."""
        run = client.read_flow_run(self._run_id)
        gone = run.state is not None and (run.state.is_cancelling() or run.state.is_final())
        return gone or self.is_lost(client, run)

    def is_lost(self, client: SyncPrefectClient, run: FlowRun) -> bool:
        """Whether the run says that it goes on, and nothing has been heard of it for too long.

        Args:
            client: of the server.
            run: as it has just been read.
        """
        now = time.monotonic()
        if now - self._asked < _ASK_FOR_BEATS_EVERY_S:
            return False
        late, self._asked = now - self._asked > 4 * _ASK_FOR_BEATS_EVERY_S, now
        beats, newest = self._beats_so_far(client)
        self._beats = self._beats or beats > 0
        state = cast("State[Any]", run.state)
        seen = (state.id, beats, newest)
        if seen != self._seen or late or not (state.is_running() or state.is_pending()):
            self._seen, self._since = seen, now
        limit = START_WITHIN_S if state.is_pending() else SILENT_AFTER_S
        return self._beats and now - self._since > limit

    def _beats_so_far(self, client: SyncPrefectClient) -> tuple[int, object]:
        asked = EventFilter(
            event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{self._run_id}"]),
        )
        asked.occurred.until += timedelta(days=1)  # the clock that stamped it may be ahead
        page = client.read_events(asked, limit=1)
        return page.total, page.events[0].id if page.events else None


if __name__ == "__main__":
    with get_client(sync_client=True) as _client:
        close_run(_client, UUID(sys.argv[1]), "The process of this run was killed.")

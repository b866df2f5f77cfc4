"""Reports a flow run whose process was killed; without that it would say Running for ever.

    python crash.py FLOW_RUN_ID

The run starts this process with a pipe as standard input. If the pipe closes before anything was
written to it, the run's process is dead: the run and its tasks become Crashed, or Cancelled if
that had been asked for. Prefect's heartbeats do the same a few minutes later, where a server runs
an automation on them (docs/flows.md); that is the way for a machine that goes down as a whole.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
"""The variable that makes Prefect's runs send heartbeats, and the seconds between them."""

SILENT_AFTER_S = 100.0
"""Seconds without a heartbeat after which a run's machine counts as lost."""

START_WITHIN_S = 900.0
"""Seconds for a run that was taken to begin: its machine or image may have to come first."""

_ASK_EVERY_S = 5.0


def main() -> None:
    if os.read(0, 1):
        return  # the run has ended and reported its own state
    from prefect.client.orchestration import get_client  # takes seconds, and most runs end well

    with get_client(sync_client=True) as client:
        close_run(client, UUID(sys.argv[1]), "The process of this run was killed.")


def close_run(client: SyncPrefectClient, flow_run_id: UUID, message: str) -> State[Any]:
    """Give a run and its tasks a final state, unless they have one or wait for a later start.

    Returns:
        The state that the run is in then.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Cancelled, Crashed

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

    def is_lost(self, client: SyncPrefectClient, run: FlowRun) -> bool:
        """Whether the run says that it goes on, and nothing has been heard of it for too long.

        Args:
            client: of the server.
            run: as it has just been read.
        """
        now = time.monotonic()
        if now - self._asked < _ASK_EVERY_S:
            return False
        late, self._asked = now - self._asked > 4 * _ASK_EVERY_S, now
        beats, newest = self._beats_so_far(client)
        self._beats = self._beats or beats > 0
        state = cast("State[Any]", run.state)
        seen = (state.id, beats, newest)
        if seen != self._seen or late or not (state.is_running() or state.is_pending()):
            self._seen, self._since = seen, now
        limit = START_WITHIN_S if state.is_pending() else SILENT_AFTER_S
        return self._beats and now - self._since > limit

    def _beats_so_far(self, client: SyncPrefectClient) -> tuple[int, object]:
        from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

        asked = EventFilter(
            event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{self._run_id}"]),
        )
        asked.occurred.until += timedelta(days=1)  # the clock that stamped it may be ahead
        page = client.read_events(asked, limit=1)
        return page.total, page.events[0].id if page.events else None


if __name__ == "__main__":
    main()

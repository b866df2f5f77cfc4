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
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State


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


if __name__ == "__main__":
    main()

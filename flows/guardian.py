"""Says of a flow run whose process was killed that it is over; otherwise it would run for ever.

    python guardian.py FLOW_RUN_ID

Started by the run itself, in a session of its own, with a pipe as standard input. If the pipe
closes before anything came through it, the run's process is dead. Its state then becomes Crashed,
or Cancelled if somebody had asked for that, and its tasks' too. Where a worker has watched the
run as well, whoever is first is right; what is to run again later is left alone.

For a machine that goes down as a whole there is Prefect's own way, an automation on missing
heartbeats (docs/flows.md).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def main() -> int:
    if os.read(0, 1):
        return 0  # the run has ended, and says so itself
    # Only now: it takes seconds, and most runs end well.
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        close(client, UUID(sys.argv[1]), "The process of this run was killed.")
    return 0


def close(client: SyncPrefectClient, flow_run_id: UUID, message: str) -> None:
    """Give a dead run and its tasks a final state, unless they have one."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelled, Crashed

    run = client.read_flow_run(flow_run_id)
    if run.state is not None and run.state.is_scheduled():
        return
    asked = run.state is not None and run.state.type in (StateType.CANCELLING, StateType.CANCELLED)
    state: State[None] = Cancelled(message=message) if asked else Crashed(message=message)
    if run.state is None or not run.state.is_final():
        client.set_flow_run_state(flow_run_id, state, force=True)
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    )
    for task in tasks:
        if task.state is None or not task.state.is_final():
            client.set_task_run_state(task.id, state, force=True)


if __name__ == "__main__":
    sys.exit(main())

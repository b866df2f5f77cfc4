"""The flow `stage`: a worker runs one stage of another machine's pipeline.

It is deployed once for each work pool, under the pool's name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from fer_pipeline.errors import FlowError
from flows.artifacts import StageEvents
from flows.orders import RESULT_LABEL, Order, Result, as_file, lock_entry, transfer_command
from flows.process import Outcome, backoff, patience
from flows.runs import server_errors
from flows.session import Session, run_in_session
from flows.slots import acquire_slot, machine_slots, require_lock
from flows.trees import tree_of

CLONE_VARIABLE = "FER_CLONE"
"""The project's folder on the worker's machine; else the one that this code lies in."""


def _run_name() -> str:
    return str(Order.model_validate(flow_run.parameters["order"]).stage)


@flow(name="stage", flow_run_name=_run_name)
def stage(order: Order, parent: UUID) -> State[None]:
    """Bring one stage up to date, for a flow run on this or another machine.

    Args:
        order: the stage, and all that decides its outs.
        parent: the flow run that waits for it; this run ends when that has ended.
    """
    clone = Path(os.environ.get(CLONE_VARIABLE) or Path(__file__).parents[1])

    def work(here: Session) -> State[None]:
        _require_wanted(here.run_id)
        warn = get_run_logger().warning
        result = here.processes.retry(lambda: _bring_up_to_date(here, order), warn, backoff())
        # What is computed waits for the server, for long: it is not computed again for that.
        here.processes.retry(lambda: _tell(here.run_id, result), warn, patience())
        name = "Completed" if result.ran else "Cached"
        return Completed(name=name, message=f"{order.stage} is up to date.")

    return run_in_session(work, clone, parent=parent)


def _require_wanted(run_id: UUID) -> None:
    """
    Raises:
        FlowError: the run was given up before it began, and another worker has the stage.
    """
    with server_errors("asking for this run"), get_client(sync_client=True) as client:
        if any(state.is_final() for state in client.read_flow_run_states(run_id)):
            raise FlowError("this run began too late: another worker has its stage")


def _bring_up_to_date(here: Session, order: Order) -> Result:
    log = get_run_logger().info
    events = StageEvents()
    with acquire_slot(machine_slots(1), here.name, here.processes, log) as (slot, lock):
        tree = tree_of(here.folder, slot.name)
        log(f"on {slot.name}, in {tree}")
        # Machines that share a clone do not share their slots' locks.
        with require_lock(tree.with_name(f"{tree.name}.lock"), here.name, tree) as user:
            locks = [lock, user.fileno()]
            outcome = _transfer(here, order, tree, env=slot.env, locks=locks, on_event=events.take)
            ran = outcome.stage_ran(order.stage, order.deadline_s)
            entry = lock_entry(tree, order.stage)
    return Result(entry=entry, ran=ran, mlflow_runs=events.mlflow_runs)


def _tell(run_id: UUID, result: Result) -> None:
    with server_errors("telling the flow that waits"), get_client(sync_client=True) as client:
        client.update_flow_run_labels(run_id, {RESULT_LABEL: result.model_dump_json()})


def _transfer(
    here: Session, order: Order, tree: Path, env: dict[str, str], **options: Any
) -> Outcome:
    """
    Raises:
        FlowError: the worker has no address of MLflow, and the order brings none.
        StoppedError: the run is ending.
    """
    given = {name: value for name, value in os.environ.items() if value}
    env = {**order.defaults, **given, **order.env, **env}
    if "MLFLOW_TRACKING_URI" not in env:
        raise FlowError("set MLFLOW_TRACKING_URI for this worker: trainings log to a server")
    with as_file(order) as file:
        return here.run(
            transfer_command("run", file, str(here.folder.resolve()), str(tree)),
            env=env,
            deadline_s=order.deadline_s,
            **options,
        )

"""The flow `ingest`: is there a new version of the source? Then it is pinned, read and checked."""

from __future__ import annotations

import shlex
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from fer_pipeline.errors import FerError
from flows.commands import execute, require_success
from flows.graph import look
from flows.pipeline import RUNNER, run_graph
from flows.retries import RETRY
from flows.session import Session, session
from flows.workspace import alone_in

UPDATED = "fer-fusion.source.updated"
"""The event after which there is something new to train on (prefect.yaml)."""


@flow(name="ingest", task_runner=RUNNER)
def ingest(
    targets: list[str] | None = None,
    folder: Path = Path(),
    wait_for_workspace_s: float = 600.0,
) -> State[None]:
    """Take a new version of the source, if there is one, and tell the pipeline.

    Args:
        targets: the stages that read and check the data; if empty, "prepare".
        folder: of dvc.yaml.
        wait_for_workspace_s: how long to wait for another run in the same folder.
    """
    say = get_run_logger().info
    try:
        with (
            session(folder) as here,
            alone_in(folder, here.who, wait_for_workspace_s, say) as held,
        ):
            news = _news(here)
            if here.ended_early() or not news["moved"]:
                return here.ended_early() or Completed(
                    name="Unchanged", message=f"{news['uri']} is as it was pinned."
                )
            _take(here, str(news["command"]))
            state = run_graph(here, held, targets or ["prepare"], force=False)
            if state.is_completed() and look(folder).remote:
                _push(here, held)
    except FerError as error:
        return Failed(message=str(error))
    if not state.is_completed():
        return state
    # Only now: the pipeline that this starts needs the workspace.
    emit_event(UPDATED, {"prefect.resource.id": "fer-fusion.source"}, payload=dict(news))
    return Completed(message=f"{news['uri']}: {news['moved']}; pinned, read and checked.")


def _news(here: Session) -> dict[str, str]:
    @task(name="ask upstream", cache_policy=NO_CACHE, persist_result=False, **RETRY)
    def ask() -> dict[str, str]:
        outcome = execute(here.children, ["fer", "source", "status", "--json"])
        return require_success(outcome, "asking the source").document()

    return ask()


def _take(here: Session, command: str) -> None:
    @task(name="pin", cache_policy=NO_CACHE, persist_result=False, **RETRY)
    def pin() -> None:
        require_success(execute(here.children, shlex.split(command)), "pinning the source")

    pin()


def _push(here: Session, held: int) -> None:
    @task(name="push", cache_policy=NO_CACHE, persist_result=False, **RETRY)
    def push() -> None:
        outcome = execute(here.children, ["dvc", "--wait-for-lock", "push"], held=[held])
        require_success(outcome, "dvc push")

    push()

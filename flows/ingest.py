"""The flow `ingest`: is there a new version of the source? Then it is pinned, read and checked."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from fer_pipeline.files import write_text
from flows.graph import read_status
from flows.params import commit
from flows.pipeline import RUNNER, run_graph
from flows.session import Session, run_in_session

UPDATED = "fer-fusion.source.updated"
"""Name of the event that starts the pipeline on new data (prefect.yaml)."""

_UNFINISHED = Path(".dvc/tmp/fer-ingest.json")
"""The change that a run has pinned and not yet finished; an interrupted run leaves it behind."""


def _run_name() -> str:
    return f"source at {commit(Path(flow_run.parameters.get('folder') or '.'))}"


@flow(name="ingest", task_runner=RUNNER, flow_run_name=_run_name)
def ingest(folder: Path = Path(), wait_for_workspace_s: float = 600.0) -> State[None]:
    """Take a new version of the source, if there is one, and send the event that starts `pipeline`.

    Args:
        folder: of dvc.yaml.
        wait_for_workspace_s: how long to wait for another run in the same folder.
    """

    def work(here: Session) -> State[None]:
        with here.exclusive():
            change = _pin_change(here)
            if not change["moved"]:
                return Completed(name="Unchanged", message=f"{change['uri']} is as it was pinned.")
            state = run_graph(here, ["prepare"], force=False)
            if not state.is_completed():
                return state
            if here.when_free(lambda: read_status(folder)).remote:
                here.command("push", ["dvc", "--wait-for-lock", "push"])
        # Only now: the pipeline that this starts needs the folder.
        source = {"prefect.resource.id": "fer-fusion.source"}
        source["fer-fusion.folder"] = str(folder.resolve())  # whose pipeline is to start
        emit_event(UPDATED, source, payload=dict(change))
        (folder / _UNFINISHED).unlink(missing_ok=True)
        return Completed(message=f"{change['uri']}: {change['moved']}; pinned, read and checked.")

    return run_in_session(work, folder, wait_for_workspace_s)


def _pin_change(here: Session) -> dict[str, str]:
    """Ask the source for its version and pin a new one; gives what `fer source status` said.

    A version that an earlier run pinned, without coming to its end, counts as new still.

    Raises:
        FlowError: the source can't be asked or pinned.
        StoppedError: the run is ending.
    """
    asked = here.command("ask upstream", ["fer", "source", "status", "--json"])
    change: dict[str, str] = asked.document()
    unfinished = here.folder / _UNFINISHED
    if change["moved"]:
        write_text(unfinished, json.dumps(change))  # first: a pin replaces what was known before
        here.command("pin", shlex.split(change["command"]))
    elif unfinished.exists():
        get_run_logger().info("an earlier run pinned this version and was interrupted")
        change = json.loads(unfinished.read_text(encoding="utf-8"))
    return change

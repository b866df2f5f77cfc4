"""The flow `ingest`: is there a new version of the source? Then it is pinned, read and checked."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from fer_pipeline.errors import FerError
from fer_pipeline.files import write_text
from flows.commands import Outcome, execute, require_success
from flows.errors import StoppedError
from flows.graph import look
from flows.pipeline import RUNNER, run_graph
from flows.retries import with_retries
from flows.session import Session, cancelled, session

UPDATED = "fer-fusion.source.updated"
"""The event after which there is something new to train on (prefect.yaml)."""

_UNFINISHED = Path(".dvc/tmp/fer-ingest.json")
"""The news that a run is at work on; it stays where one did not come to its end."""


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
    try:
        with session(folder, wait_for_workspace_s) as here, here.alone() as held:
            news = _news(here)
            if not news["moved"]:
                return here.ended_early() or Completed(
                    name="Unchanged", message=f"{news['uri']} is as it was pinned."
                )
            state = run_graph(here, held, targets or ["prepare"], force=False)
            if state.is_completed() and here.patience.until_free(lambda: look(folder)).remote:
                _command(here, "push", ["dvc", "--wait-for-lock", "push"], held)
            if here.ended_early() or not state.is_completed():
                return here.ended_early() or state
    except StoppedError:
        return cancelled()
    except FerError as error:
        return Failed(message=str(error))
    # Only now: the pipeline that this starts needs the workspace.
    emit_event(UPDATED, {"prefect.resource.id": "fer-fusion.source"}, payload=dict(news))
    (folder / _UNFINISHED).unlink(missing_ok=True)
    return Completed(message=f"{news['uri']}: {news['moved']}; pinned, read and checked.")


def _news(here: Session) -> dict[str, str]:
    """Ask for news and pin them; what an earlier run pinned and did not finish is news still.

    Raises:
        CommandError: the source can't be asked or pinned.
        StoppedError: the run is ending.
    """
    asked = _command(here, "ask upstream", ["fer", "source", "status", "--json"])
    news: dict[str, str] = asked.document()
    unfinished = here.folder / _UNFINISHED
    if news["moved"]:
        write_text(unfinished, json.dumps(news))  # first: the pin forgets what was before
        _command(here, "pin", shlex.split(news["command"]))
    elif unfinished.exists():
        get_run_logger().info("an earlier run has pinned this, and did not come to its end")
        news = json.loads(unfinished.read_text(encoding="utf-8"))
    return news


def _command(here: Session, name: str, command: Sequence[str], *held: int) -> Outcome:
    """A command as a task of its own."""

    def once() -> Outcome:
        return require_success(execute(here.children, command, held=held), name)

    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def work() -> Outcome:
        return with_retries(once, here.children.rest)

    return work()

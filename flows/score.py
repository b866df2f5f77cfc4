"""The flow `score`: new faces, what the champion says of them, and whether they have drifted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.session import Session, run_in_session

DRIFT = "fer-fusion.drift"
"""Name of the event that is sent when faces have drifted (docs/automations/drift-notice.yaml)."""


def _run_name() -> str:
    asked = flow_run.parameters
    return f"{_source_of_the_day(asked['source'])} by {asked.get('model', 'champion')}"


@flow(name="score", flow_run_name=_run_name)
def score(
    source: str, model: str = "champion", output: Path | None = None, folder: Path = Path()
) -> State[None]:
    """Predict new faces, compare them with the model's record, and send an event if they drifted.

    Args:
        source: of the faces, as `fer score` takes it. Its `%Y`, `%m` and `%d` are those of the day
            before the run is due (UTC), so that every night has its faces, once.
        model: a version, an alias, or `models:/NAME@ALIAS`.
        output: where to keep the predictions beside MLflow; may have a `%Y-%m-%d`, too.
        folder: of params.yaml.
    """

    def work(here: Session) -> State[None]:
        command = ["fer", "score", "--json", "--model", model]
        command += ["--output", _source_of_the_day(str(output))] if output else []
        done = here.command("score", [*command, "--", _source_of_the_day(source)])
        found = done.document()
        if not found["drifted"]:
            return Completed(message=found["message"])
        model_of = {"prefect.resource.id": "fer-fusion.model", "prefect.resource.name": model}
        model_of["fer-fusion.folder"] = str(folder.resolve())  # whose pipeline may be to start
        emit_event(DRIFT, model_of, payload=found)
        return Completed(name="Drifted", message=found["message"])

    return run_in_session(work, folder)


def _source_of_the_day(text: str) -> str:
    day = flow_run.get_scheduled_start_time() - timedelta(days=1)
    return day.strftime(text) if "%" in text else text

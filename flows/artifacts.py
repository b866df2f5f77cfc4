"""What a run shows in Prefect's pages: progress, metrics, the verdict, and where the rest is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from fer_pipeline.paths import EVALUATION, REPORT, VERDICT


class Progress:
    """The progress bar of one training, on the page of its task."""

    def __init__(self, backbone: str, warn: Callable[[str], None]) -> None:
        # Prefect's keys consist of small letters, digits and dashes.
        self._key = "fer-progress-" + re.sub("[^a-z0-9]", "-", backbone.lower())
        self._warn = warn
        self._id: UUID | None = None

    def epoch(self, event: Mapping[str, Any]) -> None:
        """Advance the bar after an epoch; `event` is that of `fer_pipeline.events`.

        If the server does not take it the training goes on, and a warning is logged.
        """
        percent = 100.0 * event["epoch"] / event["epochs"]
        text = (
            f"{event['phase']}, epoch {event['epoch']} of {event['epochs']}: "
            f"val {event['val_accuracy']:.2%}, {event['images_per_s']:.0f} images/s"
        )
        try:
            if self._id is None:
                # A coroutine only where there is an event loop, and here is none.
                made = create_progress_artifact(percent, key=self._key, description=text)
                self._id = cast("UUID", made)
            else:
                update_progress_artifact(self._id, percent, description=text)
        except (PrefectException, httpx.HTTPError) as error:
            self._warn(f"progress not shown ({type(error).__name__}): {text}")


def show_results(folder: Path, mlflow_runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the metrics and the verdict that lie in the folder on the page of the flow run.

    They are read as JSON: the modules that know their fields take seconds to import.
    """
    if (folder / EVALUATION).exists():
        evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        models = {"fused": evaluation["fused"], **evaluation["single"]}
        rows = [
            {"model": name}
            | {key: round(value, 4) for key, value in scores.items() if isinstance(value, float)}
            for name, scores in models.items()
        ]
        create_table_artifact(rows, key="fer-metrics", description=_summary(evaluation))
    if (folder / VERDICT).exists():
        verdict = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
        gate = "Gate passed" if verdict["passed"] else "Gate not passed"
        text = _verdict(verdict, folder, mlflow_runs)
        create_markdown_artifact(f"# {gate}\n\n{text}", key="fer-verdict", description=gate)


def _summary(evaluation: Mapping[str, Any]) -> str:
    gain = evaluation["gain"]
    low, high = (100 * bound for bound in gain["ci95"])
    return (
        f"On {evaluation['test']['images']:,} test images. Fused over the best single, "
        f"{evaluation['best_single']}: {100 * gain['accuracy']:+.2f} points, 95 % interval "
        f"{low:+.2f} to {high:+.2f}, McNemar p {gain['mcnemar_p']:.2g}."
    )


def _verdict(
    verdict: Mapping[str, Any], folder: Path, mlflow_runs: Mapping[str, Mapping[str, Any]]
) -> str:
    lines = ["Nothing was registered."]
    if verdict["version"]:
        lines = [f"Version {verdict['version']} of `{verdict['model_name']}`."]
    lines += ["", *(f"- {reason}" for reason in verdict["reasons"])]
    lines += ["", f"Report: `{(folder / REPORT).resolve()}`"]
    if mlflow_runs:
        lines += ["", "| MLflow run | |", "|---|---|"]
        lines += [f"| {name} | {_link(run)} |" for name, run in sorted(mlflow_runs.items())]
    return "\n".join(lines)


def _link(run: Mapping[str, Any]) -> str:
    """To MLflow's page of a run; a local store has none, so this says how to serve it."""
    path = f"#/experiments/{run['experiment_id']}/runs/{run['run_id']}"
    if str(run["uri"]).startswith("http"):
        return f"[{run['run_id']}]({str(run['uri']).rstrip('/')}/{path})"
    return f"`mlflow ui --backend-store-uri {run['uri']}`, then `/{path}`"

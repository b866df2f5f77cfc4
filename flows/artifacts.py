"""What a run shows in Prefect's pages: progress, metrics, the verdict, and where the rest is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
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

_COLUMNS = ("accuracy", "macro_f1", "nll", "ece", "brier")


class Progress:
    """The bar of one training, on the page of its task."""

    def __init__(self, backbone: str, warn: Callable[[str], None]) -> None:
        self._backbone = backbone
        self._warn = warn
        self._id: UUID | None = None

    def epoch(self, event: Mapping[str, Any]) -> None:
        """Move it on after an epoch, as `fer_pipeline.events` tells of it.

        A server that does not take it is no reason to end a training: it is warned of.
        """
        percent = 100.0 * event["epoch"] / event["epochs"]
        words = (
            f"{event['phase']}, epoch {event['epoch']} of {event['epochs']}: "
            f"val {event['val_accuracy']:.2%}, {event['images_per_s']:.0f} images/s"
        )
        try:
            self._show(percent, words)
        except (PrefectException, httpx.HTTPError) as error:
            self._warn(f"progress not shown ({type(error).__name__}): {words}")

    def _show(self, percent: float, words: str) -> None:
        if self._id is None:
            made = create_progress_artifact(
                percent, key=f"fer-progress-{_key(self._backbone)}", description=words
            )
            assert isinstance(made, UUID)  # a coroutine only where there is an event loop
            self._id = made
        else:
            update_progress_artifact(self._id, percent, description=words)


def show_results(folder: Path, mlflow_runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the metrics and the verdict that lie in the folder on the page of the flow run."""
    if (folder / EVALUATION).exists():
        evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        create_table_artifact(
            _metrics(evaluation), key="fer-metrics", description=_summary(evaluation)
        )
    if (folder / VERDICT).exists():
        verdict = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
        create_markdown_artifact(
            _verdict(verdict, folder, mlflow_runs),
            key="fer-verdict",
            description="Gate passed" if verdict["passed"] else "Gate not passed",
        )


def _metrics(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    models = {"fused": evaluation["fused"], **evaluation["single"]}
    return [
        {"model": name} | {column: round(one[column], 4) for column in _COLUMNS}
        for name, one in models.items()
    ]


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
    registered = (
        f"Version {verdict['version']} of `{verdict['model_name']}`."
        if verdict["version"]
        else "Nothing was registered."
    )
    lines = [
        f"# {'Gate passed' if verdict['passed'] else 'Gate not passed'}",
        "",
        registered,
        "",
        *(f"- {reason}" for reason in verdict["reasons"]),
        "",
        f"Report: `{(folder / REPORT).resolve()}`",
        "",
        *(["| MLflow run | |", "|---|---|"] if mlflow_runs else []),
        *(f"| {name} | {_link(run)} |" for name, run in sorted(mlflow_runs.items())),
    ]
    return "\n".join(lines)


def _link(run: Mapping[str, Any]) -> str:
    """To MLflow's page of a run; a local store has none until somebody serves it."""
    path = f"#/experiments/{run['experiment_id']}/runs/{run['run_id']}"
    if str(run["uri"]).startswith("http"):
        return f"[{run['run_id']}]({str(run['uri']).rstrip('/')}/{path})"
    return f"`mlflow ui --backend-store-uri {run['uri']}`, then `/{path}`"


def _key(name: str) -> str:
    """Prefect's keys hold small letters, digits and dashes."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())

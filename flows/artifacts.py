"""What a run shows in Prefect's pages: progress, metrics, the verdict, and where the rest is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from prefect.logging import get_run_logger

from fer_pipeline.errors import hide_password
from fer_pipeline.files import read_json
from fer_pipeline.paths import EVALUATION, PROVENANCE, REPORT, TRACKING_DB, VERDICT


@dataclass
class StageEvents:
    """Takes what stages tell while they run.

    Attributes:
        mlflow_runs: the events of the MLflow runs that they log to, by the runs' names.
        progress_bars: of the trainings, by backbone.
    """

    mlflow_runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    progress_bars: dict[str, UUID] = field(default_factory=dict)

    def take(self, kind: str, event: dict[str, Any]) -> None:
        """Keep or show an event of `fer_pipeline.events`, in the task of the stage."""
        if kind == "run":
            self.mlflow_runs[event["name"]] = event
        elif kind == "epoch":
            _show_progress(self.progress_bars, event)


def _show_progress(bars: dict[str, UUID], event: Mapping[str, Any]) -> None:
    """Advance the progress bar of a training; if the server does not take it the training goes on.

    Args:
        bars: those that have been made, by backbone; a new one is added.
        event: of a finished epoch.
    """
    backbone = event["backbone"]
    percent = 100.0 * event["epoch"] / event["epochs"]
    text = (
        f"{event['phase']}, epoch {event['epoch']} of {event['epochs']}: "
        f"val {event['val_accuracy']:.2%}, {event['images_per_s']:.0f} images/s"
    )
    # Prefect's keys consist of small letters, digits and dashes.
    key = "fer-progress-" + re.sub("[^a-z0-9]", "-", backbone.lower())
    try:
        if backbone in bars:
            update_progress_artifact(bars[backbone], percent, description=text)
        else:  # a coroutine only where there is an event loop, and here is none
            made = create_progress_artifact(percent, key=key, description=text)
            bars[backbone] = cast("UUID", made)
    except (PrefectException, httpx.HTTPError) as error:
        get_run_logger().warning(f"progress not shown ({type(error).__name__}): {text}")


def show_results(folder: Path, mlflow_runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Put the metrics and the verdict that lie in the folder on the page of the flow run.

    They are read as JSON, because the modules that know their fields take seconds to import.

    Returns:
        What the gate said, for the run's last message; empty where no verdict lies there.
    """
    if (folder / EVALUATION).exists():
        evaluation = read_json(folder / EVALUATION, "evaluate")
        models = {"fused": evaluation["fused"], **evaluation["single"]}
        rows = [
            {"model": name}
            | {key: round(value, 4) for key, value in scores.items() if isinstance(value, float)}
            for name, scores in models.items()
        ]
        create_table_artifact(rows, key="fer-metrics", description=_summary(evaluation))
    if not (folder / VERDICT).exists():
        return ""
    verdict = read_json(folder / VERDICT, "register")
    gate = "Gate passed" if verdict["passed"] else "Gate not passed"
    version = "nothing was registered"
    if verdict["version"]:
        version = f"version {verdict['version']} of {verdict['model_name']}"
    text = _verdict(verdict, folder, mlflow_runs)
    markdown = f"# {gate}: {version}\n\n{text}"
    create_markdown_artifact(markdown, key="fer-verdict", description=gate)
    return f"{gate}: {version}."


def show_machines(folder: Path) -> str:
    """Put on the page of the flow run where each backbone was trained.

    Returns:
        A warning where that was not on the same hardware with the same torch; else empty.
    """
    found = {
        file.stem: read_json(file, f"train@{file.stem}")
        for file in sorted((folder / PROVENANCE).glob("*.json"))
    }
    columns = ("hardware", "torch", "threads", "precision")
    rows = [
        {"backbone": name} | {key: one.get(key) for key in columns} for name, one in found.items()
    ]
    if rows:
        create_table_artifact(rows, key="fer-machines", description="Where backbones were trained")
    return difference(rows)


def difference(rows: Sequence[Mapping[str, Any]]) -> str:
    """What to say of backbones that were not trained on the same hardware with the same torch."""
    if len({(row["hardware"], row["torch"]) for row in rows}) < 2:
        return ""
    where = "; ".join(f"{row['backbone']}: {row['hardware']}, torch {row['torch']}" for row in rows)
    return f"trained on machines that differ, so one of them may give other bytes: {where}"


def mlflow_links(uri: str | None = None) -> tuple[Callable[[str, str], str], str]:
    """How to link to MLflow's pages, and a note for a store that has none of its own.

    Args:
        uri: of the store; that of the environment if left out.

    Returns:
        A function from a page's path and the link's text to Markdown, and the note.
    """
    uri = hide_password(uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{TRACKING_DB}")
    served = uri.startswith("http")
    base = uri.rstrip("/") if served else "http://127.0.0.1:5000"
    note = "" if served else f"(The links open while `mlflow ui --backend-store-uri {uri}` runs.)"
    return lambda path, text: f"[{text}]({base}/#/{path})", note


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
    lines = [*(f"- {reason}" for reason in verdict["reasons"])]
    lines += ["", f"Report: `{(folder / REPORT).resolve()}`"]
    if mlflow_runs:
        page, note = mlflow_links(str(next(iter(mlflow_runs.values()))["uri"]))
        lines += ["", note, "", "| MLflow run | |", "|---|---|"]
        for name, run in sorted(mlflow_runs.items()):
            lines.append(f"| {name} | {page('runs/' + run['run_id'], run['run_id'])} |")
    return "\n".join(lines)

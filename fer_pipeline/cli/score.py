"""The command `fer score`: what a version says of new faces, and how far they have drifted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_pipeline.cli.model import JsonOption, open_registry
from fer_pipeline.cli.predict import predict_chunks
from fer_pipeline.errors import DataError

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking
    from fer_pipeline.serving.monitoring import Difference, Observed
    from fer_pipeline.serving.predictor import FusedPredictor

PREDICTIONS, PAGE = "predictions.parquet", "drift.html"
"""Names of a run's artifacts."""


def score(
    faces: Annotated[
        list[str], typer.Argument(help="What 'fer predict' takes: files, folders, tables, …")
    ],
    model: Annotated[
        str, typer.Option(help="A version (3), an alias (champion), or models:/NAME@ALIAS.")
    ] = "champion",
    output: Annotated[
        Path | None, typer.Option(help="Keep the predictions here, too: .csv, .parquet or .jsonl.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict new faces; say how far they have drifted from what the model was measured on.

    Predictions, differences and a page are logged to MLflow. Drift is a result: exit status 0.
    """
    from fer_pipeline.files import write_text
    from fer_pipeline.registry.fetch import scratch_folder
    from fer_pipeline.reports.data_page import render_monitoring_page
    from fer_pipeline.serving.monitoring import beyond, compare

    with open_registry() as (tracking, params):
        limit = params.monitoring.max_drift
        name, predictor, before = _load(tracking, model, params.registry.model_name)
        with scratch_folder() as here:
            table, page = output or here / PREDICTIONS, here / PAGE
            now, unreadable = _predict(predictor, faces, table)
            differences = compare(now, before)
            known = {
                "drifted": beyond(differences, limit),
                "model": name,
                "sources": faces,
                "unreadable": unreadable,
                **_figures(now, before, differences, limit),
            }
            found = {"message": _message(known), **known}
            counts = {"now": vars(now), "before": vars(before)}
            write_text(page, render_monitoring_page(found, counts))
            found["run_id"] = _log(tracking, params.registry.experiment, found, [table, page])
    page_at = f"its page is {PAGE} of run {found['run_id']} in MLflow"
    typer.echo(json.dumps(found, indent=2) if as_json else f"{found['message']}; {page_at}")


def _load(tracking: Tracking, model: str, default: str) -> tuple[str, FusedPredictor, Observed]:
    """A version's name, the version at work, and what it was measured on."""
    from fer_pipeline.registry.fetch import fetch_bundle, find_version, parse_model
    from fer_pipeline.registry.record import read_record
    from fer_pipeline.serving.monitoring import count_answers
    from fer_pipeline.serving.speed import pick_predictor

    name, chosen = parse_model(model, default)
    number = find_version(tracking, name, chosen)
    record = read_record(tracking, name, number)
    with fetch_bundle(tracking, name, number) as bundle:
        predictor = pick_predictor(bundle)
    answers = count_answers(record.probabilities(bundle.spec.temperature))
    before = replace(answers, brightness=record.brightness, contrast=record.contrast)
    return bundle.name, predictor, before


def _log(tracking: Tracking, experiment: str, found: dict[str, Any], files: Sequence[Path]) -> str:
    """Log what was found as a run, and return its id.

    The experiment is another one than that of the trainings, whose runs these would bury.
    """
    from fer_pipeline.registry.runs import open_run
    from fer_pipeline.registry.tracking import find_experiment

    number = find_experiment(tracking.client, tracking.uri, f"{experiment} monitoring")
    own, metrics = replace(tracking, experiment_id=number), _metrics(found)
    inputs = {"sources": found["sources"], "metrics": metrics}
    tags = {"drifted": ", ".join(found["drifted"]) or "no"}
    with open_run(own, f"score {found['model']}", inputs, tags=tags, splits={}) as run:
        run.params({"model": found["model"], "sources": " ".join(found["sources"])})
        run.metrics(metrics)
        for file in files:
            run.artifact(file)
    return run.run_id


def _predict(predictor: FusedPredictor, words: list[str], output: Path) -> tuple[Observed, int]:
    """Write what is said of each face; what was seen, and how many could not be read.

    Raises:
        DataError: none could be read, or the output can't be written.
    """
    from fer_pipeline.serving.monitoring import observe
    from fer_pipeline.serving.outputs import open_output
    from fer_pipeline.serving.sources import find_sources

    seen: Observed | None = None
    unreadable = 0
    with open_output(output) as write:
        for chunk, found in predict_chunks(predictor, find_sources(words), write):
            unreadable += len(chunk.names) - len(chunk.images)
            if len(chunk.images):
                these = observe(chunk.images, chunk.sides, found.probabilities)
                seen = these if seen is None else seen + these
        if seen is None:
            raise DataError(
                f"none of {unreadable:,} faces can be read: 'fer predict' with the same words "
                "says why"
            )
    return seen, unreadable


def _figures(
    now: Observed, before: Observed, differences: dict[str, Difference], limit: float | None
) -> dict[str, Any]:
    """What is reported beside the message, as JSON has it."""
    from fer_pipeline.emotions import EMOTIONS
    from fer_pipeline.serving.monitoring import CHANCE

    return {
        "images": now.images,
        "limit": limit,
        "chance": CHANCE,
        "greys_on_record": before.brightness is not None,
        "differences": {measure: asdict(one) for measure, one in differences.items()},
        "mean_confidence": {"now": now.mean_confidence, "before": before.mean_confidence},
        "expressions": dict(zip(EMOTIONS, now.expressions.tolist(), strict=True)),
        "side": now.side_figures(),
    }


def _metrics(found: dict[str, Any]) -> dict[str, float]:
    """What runs are compared by over the nights."""
    images = found["images"]
    return (
        {"images": images, "unreadable": found["unreadable"]}
        | {"mean_confidence": found["mean_confidence"]["now"]}
        | {f"side.{key}": side for key, side in found["side"].items()}
        | {f"drift.{key}": one["size"] for key, one in found["differences"].items()}
        | {f"share.{key}": faces / images for key, faces in found["expressions"].items()}
    )


def _message(found: dict[str, Any]) -> str:
    """Such as `412 faces by fer-fusion version 3: drifted: brightness 0.41 (limit 0.2)`."""
    sizes = {measure: one["size"] for measure, one in found["differences"].items()}
    furthest, limit = max(sizes, key=sizes.__getitem__), found["limit"]
    drifted = found["drifted"]
    far = ", ".join(f"{one} {sizes[one]:.3f}" for one in drifted or [furthest])
    words = f"drifted: {far}" if drifted else f"no drift; the most is {far}"
    bound = "no limit is set" if limit is None else f"monitoring.max_drift is {limit}"
    return f"{found['images']:,} faces by {found['model']}: {words} ({bound})"

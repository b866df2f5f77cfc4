"""What a version was measured on, to compare new faces with, and runs of such comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.fusion.average import probabilities
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import find_experiment, mlflow_errors
from fer_pipeline.serving.monitoring import Observed, count_answers

if TYPE_CHECKING:
    from fer_pipeline.registry.check import Record
    from fer_pipeline.registry.tracking import Tracking


def observed_on_test(record: Record, temperature: float) -> Observed:
    """What a version said of its test images, and their greys where the record has them."""
    answers = count_answers(probabilities(record.logits.astype(np.float64), temperature))
    return replace(answers, brightness=record.brightness, contrast=record.contrast)


def log_scores(
    tracking: Tracking,
    experiment: str,
    model: str,
    sources: Sequence[str],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    files: Sequence[Path],
) -> str:
    """Log what was found of new faces as a run of an experiment of its own.

    Args:
        tracking: the store.
        experiment: that of the trainings, whose runs these would bury.
        model: what the run is named after.
        sources: of the faces; logged as a parameter.
        metrics, tags: of the run.
        files: stored with it.

    Returns:
        The run's id.
    """
    name = f"{experiment} monitoring"
    with mlflow_errors(tracking.uri):
        own = replace(tracking, experiment_id=find_experiment(tracking.client, tracking.uri, name))
    inputs = {"sources": list(sources), "metrics": dict(metrics)}
    with open_run(own, f"score {model}", inputs, tags=tags, splits={}) as run:
        run.params({"model": model, "sources": " ".join(sources)})
        run.metrics(metrics)
        for file in files:
            run.artifact(file)
    return run.run_id

"""What is to become a version: the bundle, the record of its measurements, its lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from fer_pipeline import paths
from fer_pipeline.data.faces import load_split, split_sha256
from fer_pipeline.data.profile import count_greys
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.files import read_json
from fer_pipeline.fusion.average import fuse, top1_accuracy
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import Fusion, read_fusion
from fer_pipeline.paths import training_metrics
from fer_pipeline.provenance import StageInputs, git_state
from fer_pipeline.registry.check import FOLDER, IMAGES, Record, files_tag, write_record
from fer_pipeline.registry.policy import FIGURES, GATE_TAG
from fer_pipeline.registry.runs import find_training_run, recipe_name
from fer_pipeline.serving.precision import change_tag, write_change
from fer_pipeline.serving.predictor import FusedPredictor

if TYPE_CHECKING:
    import numpy.typing as npt

    from fer_pipeline.evaluation.result import Evaluation
    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.tracking import Tracking
    from fer_pipeline.serving.precision import Bf16Change


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is to become a version.

    Attributes:
        content: the digest of its weights and of the code that it runs.
        run_id: the fusion run that the model belongs to.
        folders: what is stored beside the code, by name: `bundle` and `record`.
        example: (1, 48, 48) uint8, stored as the input example.
        tags: for the version.
        description: the model card.
    """

    content: str
    run_id: str
    folders: Mapping[str, Path]
    example: npt.NDArray[np.uint8]
    tags: Mapping[str, str]
    description: str


def make_candidate(
    params: Params,
    evaluation: Evaluation,
    *,
    run_id: str,
    bundle: Path,
    content: str,
    bf16: Bf16Change | None,
) -> Candidate:
    """Add to a bundle what a version needs beside it; the record is written next to the bundle.

    What bf16 changes stands beside the bundle too, not in it: another machine rounds otherwise, and
    would make another version of the same weights.

    Raises:
        DataError: the files of the graph are not those that were evaluated.
    """
    fusion = read_fusion(paths.FUSION)
    fusion.require_predictions(list(params.backbones))
    record, folder = _record(params, fusion, bundle, evaluation), bundle.with_name(FOLDER)
    write_record(record, folder)
    write_change(bf16, folder)
    return Candidate(
        content=content,
        run_id=run_id,
        folders={"bundle": bundle, FOLDER: folder},
        example=record.drawn[:1],
        tags=version_tags(params, evaluation) | files_tag(bundle) | change_tag(bf16),
        description=paths.MODEL_CARD.read_text(encoding="utf-8"),
    )


def version_tags(params: Params, evaluation: Evaluation) -> dict[str, str]:
    """What compares versions at a glance: all else is in the fusion run and its artifacts."""
    metrics = read_json(paths.DATA_METRICS, "prepare")
    figures = evaluation.headline()
    return {key: f"{figures[key]:.6g}" for key in FIGURES if key in figures} | {
        GATE_TAG: "true",
        "recipe": recipe_name(params, paths.RECIPES),
        "data.source": metrics["source"]["uri"],
        "data.sha256": metrics["source"]["sha256"],
        "git.commit": git_state().commit,
    }


def _record(params: Params, fusion: Fusion, bundle: Path, evaluation: Evaluation) -> Record:
    """The test logits as `evaluate` scored them, the test images' greys, and drawn faces.

    Raises:
        DataError: the files are not those that were evaluated.
    """
    test, names = load_split(paths.TEST), list(params.backbones)
    weights = np.array([fusion.weights[name] for name in names])
    logits = fuse(read_logits(names, "test", len(test)), weights)
    # Example and check faces are drawn, so that no picture of a person ends up in a registry.
    drawn = _draw_faces(params.seed)
    drawn_logits = FusedPredictor.load(bundle).predict(drawn).logits
    brightness, contrast = count_greys(test.images)
    record = Record(
        logits=logits.astype(np.float32),
        labels=test.labels,
        groups=test.groups,
        test_sha256=split_sha256(test),
        drawn=drawn,
        drawn_logits=drawn_logits,
        brightness=np.array(brightness),
        contrast=np.array(contrast),
    )
    difference = abs(top1_accuracy(logits, test.labels) - evaluation.test.fused.accuracy)
    if record.test_sha256 != evaluation.test_sha256 or difference > 1e-9:
        raise DataError(
            f"{paths.EVALUATION} is not of these predictions, {paths.FUSION} and {paths.TEST}: "
            "run 'dvc repro'"
        )
    return record


def _draw_faces(seed: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    first = 3  # happy: the face that serves as the example
    return np.stack([draw_face((first + row) % NUM_EMOTIONS, rng) for row in range(IMAGES)])


def link_trainings(params: Params, tracking: Tracking, run_id: str) -> dict[str, str]:
    """Make the runs of the trainings that this store has children of the first fusion of them.

    Returns:
        Tags of this fusion run, which name them.
    """
    tags = {}
    for name in params.backbones:
        inputs = StageInputs.read("train", name, params)
        reached = read_json(training_metrics(name), f"train@{name}")
        found = find_training_run(tracking, inputs, reached["val_accuracy"])
        tags[f"run.train.{name}"] = found or "not in this store"
        if found and MLFLOW_PARENT_RUN_ID not in tracking.client.get_run(found).data.tags:
            tracking.client.set_tag(found, MLFLOW_PARENT_RUN_ID, run_id)
    return tags

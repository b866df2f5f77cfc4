"""What is to become a version: the bundle, the record of its measurements, its lineage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline import paths
from fer_pipeline.data.faces import load_split, split_sha256
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError, ParamsError
from fer_pipeline.files import read_json
from fer_pipeline.fusion.average import fuse, top1_accuracy
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import Fusion, read_fusion
from fer_pipeline.params.load import load_params
from fer_pipeline.paths import model_file, training_metrics
from fer_pipeline.provenance import StageInputs, dvc_hashes, file_sha256, git_state
from fer_pipeline.registry.check import FILE_TAG, IMAGES, SIZE_TAG, Record, write_record
from fer_pipeline.registry.policy import GATE_TAG
from fer_pipeline.registry.runs import find_training_run
from fer_pipeline.serving.bundle import bundle_files
from fer_pipeline.serving.predictor import FusedPredictor

if TYPE_CHECKING:
    import numpy.typing as npt

    from fer_pipeline.evaluation.result import Evaluation
    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.tracking import Tracking


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
    tracking: Tracking,
    evaluation: Evaluation,
    *,
    run_id: str,
    bundle: Path,
    content: str,
) -> Candidate:
    """Add to a bundle what a version needs beside it; the record is written next to the bundle.

    Raises:
        DataError: the files of the graph are not those that were evaluated.
    """
    fusion = read_fusion(paths.FUSION)
    fusion.require_predictions(list(params.backbones))
    record, folder = _record(params, fusion, bundle, evaluation), bundle.with_name("record")
    write_record(record, folder)
    tags = {
        **_lineage_tags(params, fusion),
        **_run_tags(params, tracking),
        "run.fusion": run_id,
        "report": f"runs:/{run_id}/{paths.REPORT.name}",
        "model_card": f"runs:/{run_id}/{paths.MODEL_CARD.name}",
        GATE_TAG: "true",
        **figure_tags(evaluation),
        **file_tags(bundle),
    }
    return Candidate(
        content=content,
        run_id=run_id,
        folders={"bundle": bundle, "record": folder},
        example=record.drawn[:1],
        tags=tags,
        description=paths.MODEL_CARD.read_text(encoding="utf-8"),
    )


def file_tags(bundle: Path) -> dict[str, str]:
    """The digest and the size of each file of a bundle, by which a version is checked."""
    files = bundle_files(bundle)
    return {f"{FILE_TAG}{path.name}": file_sha256(path) for path in files} | {
        f"{SIZE_TAG}{path.name}": str(path.stat().st_size) for path in files
    }


def figure_tags(evaluation: Evaluation) -> dict[str, str]:
    """The headline of an evaluation as text, and on which images it was measured."""
    return {key: f"{value:.6g}" for key, value in evaluation.headline().items()} | {
        "best_single": evaluation.test.best_single,
        "protocol": evaluation.protocol,
        "test.images": str(evaluation.test.images),
        "test.sha256": evaluation.test_sha256,
    }


def recipe_name(params: Params, recipes: Path) -> str:
    """The recipe whose values these are, whatever its comments; `custom` where there is none."""
    for path in sorted(recipes.glob("*.yaml")):
        try:
            if load_params(path) == params:
                return path.stem
        except ParamsError:
            continue  # a broken recipe is not what was run
    return "custom"


def _record(params: Params, fusion: Fusion, bundle: Path, evaluation: Evaluation) -> Record:
    """The test logits as `evaluate` scored them, and those of drawn faces.

    Raises:
        DataError: the files are not those that were evaluated.
    """
    test, names = load_split(paths.TEST), list(params.backbones)
    weights = np.array([fusion.weights[name] for name in names])
    logits = fuse(read_logits(names, "test", len(test)), weights)
    # Example and check faces are drawn, so that no picture of a person ends up in a registry.
    drawn = _draw_faces(params.seed)
    drawn_logits = FusedPredictor.load(bundle).predict(drawn).logits
    record = Record(
        logits.astype(np.float32), test.labels, test.groups, split_sha256(test), drawn, drawn_logits
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


def _lineage_tags(params: Params, fusion: Fusion) -> dict[str, str]:
    """What made the version: commit, DVC hashes of data and models, params."""
    git, hashes = git_state(), dvc_hashes(paths.DVC_LOCK)
    metrics = read_json(paths.DATA_METRICS, "prepare")
    data = metrics["source"]
    tracked = [paths.FACES, paths.TRAIN, paths.VAL, paths.TEST, paths.FUSION]
    tracked += map(model_file, params.backbones)
    return {
        "git.commit": git.commit,
        "git.dirty": str(git.dirty).lower(),
        "data.source": data["uri"],
        "data.sha256": data["sha256"],
        "data.synthetic": str(data["synthetic"]).lower(),
        "recipe": recipe_name(params, paths.RECIPES),
        "fusion.method": fusion.method,
        "fusion.weights": json.dumps(fusion.weights),
        "params": params.model_dump_json(),
        **{f"dvc.{path}": hashes.get(str(path), "untracked") for path in tracked},
    }


def _run_tags(params: Params, tracking: Tracking) -> dict[str, str]:
    """The run of each training, where this store has it."""
    tags = {}
    for name in params.backbones:
        inputs = StageInputs.read("train", name, params)
        reached = read_json(training_metrics(name), f"train@{name}")
        run_id = find_training_run(tracking, inputs, reached["val_accuracy"])
        tags[f"run.train.{name}"] = run_id or "not in this store"
    return tags

"""What `register` hands to the registry: the bundle, what it was measured by, what made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.data.faces import load_split, split_sha256
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.evaluation.result import Evaluation
from fer_pipeline.fusion.average import fuse, top1_accuracy
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import Fusion, read_fusion
from fer_pipeline.paths import (
    DATA_METRICS,
    DVC_LOCK,
    EVALUATION,
    FACES,
    FUSION,
    MODEL_CARD,
    RECIPES,
    REPORT,
    TEST,
    TRAIN,
    VAL,
    model_file,
    require,
    training_metrics,
)
from fer_pipeline.provenance import content_digest, dvc_hashes, file_sha256, git_state
from fer_pipeline.registry.check import FILE_TAG, IMAGES, SIZE_TAG
from fer_pipeline.registry.facts import figure_tags, recipe_name
from fer_pipeline.registry.promote import GATE_TAG
from fer_pipeline.registry.records import Record, write_record
from fer_pipeline.registry.training_runs import find_training_run
from fer_pipeline.registry.versions import Candidate
from fer_pipeline.serving.bundle import bundle_files
from fer_pipeline.serving.predictor import FusedPredictor

if TYPE_CHECKING:
    import numpy.typing as npt

    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.tracking import RunLog, Tracking


def make_candidate(
    params: Params,
    tracking: Tracking,
    run: RunLog,
    bundle: Path,
    content: str,
    evaluation: Evaluation,
) -> Candidate:
    """A bundle with its record, which is written beside it, its tags and its card.

    Raises:
        DataError: the files of the graph are not those that were evaluated.
    """
    fusion = read_fusion(FUSION)
    record, folder = _record(params, fusion, bundle, evaluation), bundle.with_name("record")
    write_record(record, folder)
    return Candidate(
        content,
        run.run_id,
        {"bundle": bundle, "record": folder},
        record.drawn[:1],
        _tags(params, tracking, run, fusion, bundle, evaluation),
        MODEL_CARD.read_text(encoding="utf-8"),
    )


def _record(params: Params, fusion: Fusion, bundle: Path, evaluation: Evaluation) -> Record:
    """The test logits as `evaluate` scored them, and those of drawn faces.

    Raises:
        DataError: the files are not those that were evaluated.
    """
    test, names = load_split(TEST), list(params.backbones)
    weights = np.array([fusion.weights[name] for name in names])
    logits = fuse(read_logits(names, "test"), weights)
    # Example and check faces are drawn, so that no picture of a person ends up in a registry.
    drawn = _draw_faces(params.seed)
    drawn_logits = FusedPredictor.load(bundle).predict(drawn).logits
    record = Record(
        logits.astype(np.float32), test.labels, test.groups, split_sha256(test), drawn, drawn_logits
    )
    difference = abs(top1_accuracy(logits, test.labels) - evaluation.test.fused.accuracy)
    if record.test_sha256 != evaluation.test_sha256 or difference > 1e-9:
        raise DataError(
            f"{EVALUATION} is not of these predictions, {FUSION} and {TEST}: run 'dvc repro'"
        )
    return record


def _draw_faces(seed: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    first = 3  # happy: the face that serves as the example
    return np.stack([draw_face((first + row) % NUM_EMOTIONS, rng) for row in range(IMAGES)])


def _tags(
    params: Params,
    tracking: Tracking,
    run: RunLog,
    fusion: Fusion,
    bundle: Path,
    evaluation: Evaluation,
) -> dict[str, str]:
    files = bundle_files(bundle)
    return {
        **_lineage(params, fusion),
        **_runs(params, tracking),
        "run.fusion": run.run_id,
        "report": f"runs:/{run.run_id}/{REPORT.name}",
        "model_card": f"runs:/{run.run_id}/{MODEL_CARD.name}",
        GATE_TAG: "true",
        **figure_tags(evaluation),
        **{f"{FILE_TAG}{path.name}": file_sha256(path) for path in files},
        **{f"{SIZE_TAG}{path.name}": str(path.stat().st_size) for path in files},
    }


def _lineage(params: Params, fusion: Fusion) -> dict[str, str]:
    """What made the version: commit, DVC hashes of data and models, params."""
    git, hashes = git_state(), dvc_hashes(DVC_LOCK)
    data = json.loads(require(DATA_METRICS, "prepare").read_text(encoding="utf-8"))["source"]
    tracked = [FACES, TRAIN, VAL, TEST, FUSION, *map(model_file, params.backbones)]
    return {
        "git.commit": git.commit,
        "git.dirty": str(git.dirty).lower(),
        "data.source": data["uri"],
        "data.sha256": data["sha256"],
        "data.synthetic": str(data["synthetic"]).lower(),
        "recipe": recipe_name(params, RECIPES),
        "fusion.method": fusion.method,
        "fusion.weights": json.dumps(fusion.weights),
        "params": params.model_dump_json(),
        **{f"dvc.{path}": hashes.get(str(path), "untracked") for path in tracked},
    }


def _runs(params: Params, tracking: Tracking) -> dict[str, str]:
    """The run of each training, where this store has it."""
    data = {"train": content_digest([require(TRAIN, "prepare")]), "val": content_digest([VAL])}
    # Which precision `auto` means, and what the environment says of it, only the training knows.
    shared = params.training.model_dump(exclude={"precision"})
    tags = {}
    for name, own in params.backbones.items():
        inputs = {"seed": params.seed, "data": data, "training": shared, **own.model_dump()}
        reached = json.loads(require(training_metrics(name), f"train@{name}").read_text("utf-8"))
        run_id = find_training_run(tracking, name, inputs, reached["val_accuracy"])
        tags[f"run.train.{name}"] = run_id or "not in this store"
    return tags

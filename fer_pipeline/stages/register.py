"""Stage `register`: the gate, and a version in the MLflow registry if it passes."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_pipeline.data.faces import load_split
from fer_pipeline.data.sample import draw_face
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.fusion.average import fuse
from fer_pipeline.layout import (
    DATA_METRICS,
    DATA_PAGE,
    DVC_LOCK,
    EVALUATION,
    FACES,
    FUSION,
    MODEL_CARD,
    PARAMS,
    RECIPES,
    REPORT,
    SOURCE_LOCK,
    TEST,
    TRAIN,
    VAL,
    VERDICT,
    model_file,
    require,
    training_metrics,
)
from fer_pipeline.models.fusion import Fusion, read_fusion
from fer_pipeline.registry.aliases import read_aliases
from fer_pipeline.registry.check import FILE_TAG, IMAGES, SIZE_TAG
from fer_pipeline.registry.facts import figure_tags, headline, recipe_name
from fer_pipeline.registry.gate import judge
from fer_pipeline.registry.lineage import content_digest, dvc_hashes, file_sha256, git_state
from fer_pipeline.registry.records import Record, split_sha256, write_record
from fer_pipeline.registry.standing import opinion
from fer_pipeline.registry.succession import GATE_TAG, Asking, nominate, promote
from fer_pipeline.registry.tracking import (
    RunLog,
    Tracking,
    connect,
    open_run,
    telling_errors,
)
from fer_pipeline.registry.training_runs import find_training_run
from fer_pipeline.registry.versions import Candidate, register_once
from fer_pipeline.serving.bundle import bundle_files, write_bundle
from fer_pipeline.serving.predictor import FusedPredictor
from fer_pipeline.stages.launch import run_stage
from fer_pipeline.stages.logits import read_logits
from fer_pipeline.writing import write_json

if TYPE_CHECKING:
    import numpy.typing as npt

    from fer_pipeline.params import Params

log = logging.getLogger(__name__)

LINEAGE = "lineage"
"""Folder of the fusion run's artifacts with what `dvc checkout` needs."""


def register(params: Params) -> None:
    """Log the fusion to MLflow, register it if the gate passes, write the verdict."""
    evaluation = json.loads(require(EVALUATION, "evaluate").read_text(encoding="utf-8"))
    fusion = read_fusion(FUSION)
    files = {name: require(model_file(name), f"train@{name}") for name in params.backbones}
    verdict = judge(evaluation, params.gate)
    tracking = connect(params.registry.experiment)
    number: str | None = None
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        write_bundle(bundle, params.backbones, fusion, files, params.predict.views)
        content = content_digest(bundle_files(bundle))
        inputs: dict[str, object] = {"content": content, "gate": params.gate.model_dump()}
        with open_run(tracking, "fusion", inputs, {"fer.stage": "register"}) as run:
            _log_fusion(run, evaluation, fusion, verdict.passed)
            if verdict.passed:
                tags = _tags(params, tracking, run, fusion, bundle, evaluation)
                record = _record(params, fusion, bundle, evaluation)
                candidate = _candidate(run, bundle, content, tags, record)
                number = register_once(tracking, params.registry.model_name, candidate)
    decision = _succeed(tracking, params, number) if number else None
    _write_verdict(tracking, params, verdict.passed, verdict.reasons, number, decision)
    for reason in verdict.reasons:
        log.info("  %s", reason)
    if number:
        log.info("gate passed: %s version %s", params.registry.model_name, number)
    else:
        log.info("gate not passed: nothing registered")


def _succeed(tracking: Tracking, params: Params, number: str) -> dict[str, object] | None:
    """Make the version challenger, and champion where that is automatic; what the policy said."""
    with telling_errors(tracking):
        if not nominate(tracking, params, number):
            return None
        decision = opinion(tracking, params, number, may_score=True)
        log.info("promote %s: %s", decision["promote"], decision["reason"])
        if params.promotion.auto and decision["promote"]:
            asking = Asking("stage register", "promotion.auto is true and the policy allows it")
            promote(tracking, params, number, asking)
        return decision


def _write_verdict(
    tracking: Tracking,
    params: Params,
    passed: bool,
    reasons: tuple[str, ...],
    number: str | None,
    decision: dict[str, object] | None,
) -> None:
    name = params.registry.model_name
    write_json(
        VERDICT,
        {
            "passed": passed,
            "reasons": list(reasons),
            "model_name": name,
            "version": number,
            "aliases": read_aliases(tracking, name).of(number) if number else [],
            "promotion": decision,
        },
    )


def _log_fusion(run: RunLog, evaluation: dict[str, Any], fusion: Fusion, passed: bool) -> None:
    run.params(
        {"fusion.method": fusion.method, "fusion.temperature": fusion.temperature}
        | {f"fusion.weight.{name}": weight for name, weight in fusion.weights.items()}
    )
    run.metrics(headline(evaluation) | {"gate_passed": float(passed)})
    made_by = dict.fromkeys((EVALUATION, REPORT, MODEL_CARD), "evaluate")
    made_by |= {FUSION: "calibrate"}
    for path, stage in (made_by | {DATA_METRICS: "prepare", DATA_PAGE: "prepare"}).items():
        run.artifact(require(path, stage))
    # The commit of a run is the one before its results are committed: these say the rest.
    for path in (PARAMS, DVC_LOCK, SOURCE_LOCK):
        if path.exists():
            run.artifact(path, LINEAGE)


def _candidate(
    run: RunLog, bundle: Path, content: str, tags: dict[str, str], record: Record
) -> Candidate:
    folder = bundle.with_name("record")
    write_record(record, folder)
    folders = {"bundle": bundle, "record": folder}
    card = MODEL_CARD.read_text(encoding="utf-8")
    return Candidate(content, run.run_id, folders, record.drawn[:1], tags, card)


def _record(params: Params, fusion: Fusion, bundle: Path, evaluation: dict[str, Any]) -> Record:
    """The test logits as `evaluate` scored them, and those of drawn faces.

    Raises:
        DataError: the files are not those that were evaluated.
    """
    test, names = load_split(TEST), list(params.backbones)
    weights = np.array([fusion.weights[name] for name in names])
    logits = fuse(read_logits(names, "test"), weights)
    # Example and check faces are drawn, so that no picture of a person ends up in a registry.
    drawn = _draw_faces(params.seed)
    drawn_logits = FusedPredictor.load(bundle).logits(drawn)
    record = Record(
        logits.astype(np.float32), test.labels, test.groups, split_sha256(test), drawn, drawn_logits
    )
    right, said = float((logits.argmax(axis=1) == test.labels).mean()), evaluation["fused"]
    if record.test_sha256 != evaluation["test"]["sha256"] or abs(right - said["accuracy"]) > 1e-9:
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
    evaluation: dict[str, Any],
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


if __name__ == "__main__":
    sys.exit(run_stage(register, "Register the fused model in MLflow if it passes the gate."))

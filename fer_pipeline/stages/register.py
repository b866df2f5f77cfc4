"""Stage `register`: the gate, and a version in the MLflow registry if it passes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline import paths
from fer_pipeline.data.faces import load_split
from fer_pipeline.errors import DataError
from fer_pipeline.evaluation.gate import judge
from fer_pipeline.evaluation.result import Evaluation, read_evaluation
from fer_pipeline.files import read_json, write_json
from fer_pipeline.fusion.average import fuse, top1_accuracy
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import Fusion, read_fusion
from fer_pipeline.paths import model_file, provenance, require
from fer_pipeline.provenance import git_state, model_digest
from fer_pipeline.registry.aliases import read_aliases
from fer_pipeline.registry.fetch import files_tag, scratch_folder
from fer_pipeline.registry.policy import FIGURES, GATE_TAG, Decision, evaluate_policy
from fer_pipeline.registry.promote import nominate, promote
from fer_pipeline.registry.record import Record, make_record, write_record
from fer_pipeline.registry.runs import RunLog, make_child, open_run, recipe_name
from fer_pipeline.registry.tracking import Tracking, connect, mlflow_errors
from fer_pipeline.registry.versions import Candidate, register_once, version_digest
from fer_pipeline.serving.bundle import (
    bundle_files,
    change_tag,
    describe,
    write_bundle,
    write_change,
)
from fer_pipeline.serving.predictor import FusedPredictor
from fer_pipeline.serving.speed import MIN_GAIN, measure_change, measure_gain

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params
    from fer_pipeline.serving.bundle import Bf16Change

log = logging.getLogger(__name__)

NOT_HERE = "not in this store"
"""What a tag says of the run of weights that DVC brought from elsewhere."""

LINEAGE = "lineage"
"""Name of the folder of the fusion run's artifacts that holds what `dvc checkout` needs."""


def register(params: Params) -> None:
    """Log the fusion to MLflow, register it if the gate passes, write the verdict."""
    evaluation, fusion = read_evaluation(paths.EVALUATION), read_fusion(paths.FUSION)
    spec = describe(fusion, params.backbones, params.predict.tta)
    files = {name: require(model_file(name), f"train@{name}") for name in params.backbones}
    verdict, name = judge(evaluation.test, params.gate), params.registry.model_name
    tracking = connect(params.registry.experiment)
    predictor = FusedPredictor(spec, files)
    bf16 = _measure_bf16(predictor, files)
    # Experiments are compared first: a sweep must not move aliases with each try.
    experiment = os.environ.get("DVC_EXP_NAME")
    number: str | None = None
    with scratch_folder() as folder:
        bundle = folder / "bundle"
        write_bundle(bundle, spec, files)
        content = version_digest(bundle_files(bundle))
        measured = {"method": fusion.method, **evaluation.headline()}
        inputs = {"content": content, "gate": params.gate.model_dump(), "measured": measured}
        tags = {"fer.stage": "register", "git.dirty": str(git_state().dirty).lower()}
        with open_run(tracking, "fusion", inputs, tags=tags, once=True) as run:
            run.tags(_link_trainings(params, tracking, run.run_id))
            _log_fusion(run, evaluation, fusion, verdict.passed)
            if verdict.passed and not experiment:
                candidate = _make_candidate(
                    params, evaluation, predictor, bundle, bf16, run.run_id, content
                )
                number = register_once(tracking, name, candidate)
    with mlflow_errors(tracking.uri):
        decision = _nominate(tracking, params, number) if number else None
        aliases = read_aliases(tracking, name).of(number) if number else []
    told = {
        **asdict(verdict),
        **{"model_name": name, "version": number, "aliases": aliases},
        "promotion": decision and decision._asdict(),
        "bf16": bf16 and asdict(bf16),
        "model_sha256": model_digest(files),
    }
    write_json(paths.VERDICT, told)
    for reason in verdict.reasons:
        log.info("  %s", reason)
    if number:
        log.info("gate passed: %s version %s", name, number)
    elif verdict.passed:
        log.info(
            "gate passed; an experiment is not registered by itself: 'dvc exp apply %s', then "
            "'fer registry register'",
            experiment,
        )
    else:
        log.info("gate not passed: nothing registered")


def _measure_bf16(exact: FusedPredictor, files: Mapping[str, Path]) -> Bf16Change | None:
    """What the fused model says of val in bf16; None where bf16 is no faster on this machine."""
    spec = exact.spec
    fast = FusedPredictor(spec, files, "bf16")
    if (gain := measure_gain(exact, fast)) < MIN_GAIN:
        log.info("bf16 is %.1f times as fast as float32 here: not measured on val", gain)
        return None
    val = load_split(paths.VAL)
    logits = read_logits([one.name for one in spec.members], "val", len(val))
    fused = fuse(logits, np.array([one.weight for one in spec.members]))
    change = measure_change(fast, val.images, val.labels, fused)
    log.info(
        "bf16 is %.1f times as fast here; on val it changes the accuracy by %+.2f points and a "
        "probability by %.4f: %s",
        gain,
        100 * change.accuracy,
        change.probability,
        "allowed" if change.allowed else "not allowed",
    )
    return change


def _make_candidate(
    params: Params,
    evaluation: Evaluation,
    predictor: FusedPredictor,
    bundle: Path,
    bf16: Bf16Change | None,
    run_id: str,
    content: str,
) -> Candidate:
    """Add to a bundle what a version needs beside it.

    What bf16 changes stands beside the bundle, too, and not in it: another machine rounds
    otherwise, and would make another version of the same weights.

    Raises:
        DataError: the files of the graph are not those that were evaluated.
    """
    record, folder = _record(params, predictor, evaluation), bundle.with_name("record")
    write_record(record, folder)
    write_change(bf16, folder)
    return Candidate(
        content=content,
        run_id=run_id,
        folders={"bundle": bundle, "record": folder},
        tags=_version_tags(params, evaluation) | files_tag(bundle) | change_tag(bf16),
        description=paths.MODEL_CARD.read_text(encoding="utf-8"),
    )


def _record(params: Params, predictor: FusedPredictor, evaluation: Evaluation) -> Record:
    """The record of the fused model, of the test logits as `evaluate` scored them."""
    test, names = load_split(paths.TEST), list(params.backbones)
    fusion = read_fusion(paths.FUSION)
    fusion.require_predictions(names)
    weights = np.array([fusion.weights[name] for name in names])
    logits = fuse(read_logits(names, "test", len(test)), weights)
    record = make_record(logits, test, predictor, params.seed)
    difference = abs(top1_accuracy(logits, test.labels) - evaluation.test.fused.accuracy)
    if record.test_sha256 != evaluation.test_sha256 or difference > 1e-9:
        raise DataError(
            f"{paths.EVALUATION} is not of these predictions, {paths.FUSION} and {paths.TEST}: "
            "run 'dvc repro'"
        )
    return record


def _version_tags(params: Params, evaluation: Evaluation) -> dict[str, str]:
    """What compares versions at a glance: all else is in the fusion run and its artifacts."""
    source = read_json(paths.DATA_METRICS, "prepare")["source"]
    figures = evaluation.headline()
    return {key: f"{figures[key]:.6g}" for key in FIGURES if key in figures} | {
        GATE_TAG: "true",
        "recipe": recipe_name(params, paths.RECIPES),
        "data.source": source["uri"],
        "data.sha256": source["sha256"],
        "git.commit": git_state().commit,
    }


def _link_trainings(params: Params, tracking: Tracking, run_id: str) -> dict[str, str]:
    """Make the runs of the trainings that this store has children of the first fusion of them.

    Returns:
        Tags of this fusion run, which name them.
    """
    made_by = {name: read_json(provenance(name), f"train@{name}") for name in params.backbones}
    runs = {name: made.get("run_id") for name, made in made_by.items()}
    return {
        f"run.train.{name}": one if one and make_child(tracking, one, run_id) else NOT_HERE
        for name, one in runs.items()
    }


def _nominate(tracking: Tracking, params: Params, number: str) -> Decision | None:
    """Make a version challenger, and champion where that is automatic; what the policy says."""
    if not nominate(tracking, params, number):
        return None
    decision = evaluate_policy(tracking, params, number)
    log.info("promote %s: %s", decision.promote, decision.reason)
    if params.promotion.auto and decision.promote:
        reason = "promotion.auto is true and the policy allows it"
        promote(tracking, params, number, by="stage register", reason=reason)
    return decision


def _log_fusion(run: RunLog, evaluation: Evaluation, fusion: Fusion, passed: bool) -> None:
    run.params(
        {"fusion.method": fusion.method, "fusion.temperature": fusion.temperature}
        | {f"fusion.weight.{name}": weight for name, weight in fusion.weights.items()}
    )
    run.metrics(evaluation.headline() | {"gate_passed": float(passed)})
    made_by = {paths.EVALUATION: "evaluate", paths.FUSION: "calibrate"}
    made_by |= {paths.DATA_METRICS: "prepare"}
    made_by |= {paths.REPORT: "report", paths.MODEL_CARD: "report", paths.DATA_PAGE: "describe"}
    for path, stage in made_by.items():
        run.artifact(require(path, stage))
    # The commit of a run is the one before its results are committed: these say the rest.
    for path in (paths.PARAMS, paths.DVC_LOCK, paths.SOURCE_LOCK):
        if path.exists():
            run.artifact(path, LINEAGE)

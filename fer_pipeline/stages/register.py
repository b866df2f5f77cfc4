"""Stage `register`: the gate, and a version in the MLflow registry if it passes."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_pipeline.data.sample import draw_face
from fer_pipeline.layout import (
    DATA_METRICS,
    DATA_PAGE,
    DVC_LOCK,
    EVALUATION,
    FACES,
    FUSION,
    MODEL_CARD,
    REPORT,
    TEST,
    TRAIN,
    VAL,
    VERDICT,
    model_file,
    require,
)
from fer_pipeline.models.fusion import Fusion, read_fusion
from fer_pipeline.registry.gate import judge
from fer_pipeline.registry.lineage import content_digest, dvc_hashes, git_state
from fer_pipeline.registry.tracking import RunLog, Tracking, connect, open_run
from fer_pipeline.registry.versions import (
    CHALLENGER,
    CONTENT_TAG,
    find_version,
    register_version,
    set_challenger,
)
from fer_pipeline.serving.bundle import write_bundle
from fer_pipeline.stages.launch import run_stage
from fer_pipeline.writing import write_json

if TYPE_CHECKING:
    from fer_pipeline.params import Params

log = logging.getLogger(__name__)


def register(params: Params) -> None:
    """Log the fusion to MLflow, register it if the gate passes, write the verdict."""
    evaluation = json.loads(require(EVALUATION, "evaluate").read_text(encoding="utf-8"))
    fusion = read_fusion(FUSION)
    files = {name: require(model_file(name), f"train@{name}") for name in params.backbones}
    verdict = judge(evaluation, params.gate)
    tracking = connect(params.registry.experiment)
    content = content_digest([*files.values(), FUSION])
    number: str | None = None
    tags = {"fer.stage": "register"}
    inputs: dict[str, object] = {"content": content, "gate": params.gate.model_dump()}
    with open_run(tracking, "fusion", inputs, tags) as run:
        _log_fusion(run, evaluation, fusion, verdict.passed)
        if verdict.passed:
            number = _version_of(params, tracking, run, fusion, files, content, evaluation)
            set_challenger(tracking, params.registry.model_name, number)
    write_json(
        VERDICT,
        {
            "passed": verdict.passed,
            "reasons": list(verdict.reasons),
            "model_name": params.registry.model_name,
            "version": number,
            "aliases": [CHALLENGER] if number else [],
        },
    )
    for reason in verdict.reasons:
        log.info("  %s", reason)
    if number:
        log.info("gate passed: %s version %s", params.registry.model_name, number)
    else:
        log.info("gate not passed: nothing registered")


def _log_fusion(run: RunLog, evaluation: dict[str, Any], fusion: Fusion, passed: bool) -> None:
    run.params(
        {"fusion.method": fusion.method, "fusion.temperature": fusion.temperature}
        | {f"fusion.weight.{name}": weight for name, weight in fusion.weights.items()}
    )
    run.metrics(
        _headline(evaluation)
        | {"gain_ci95_low": evaluation["gain"]["ci95"][0]}
        | {"gain_ci95_high": evaluation["gain"]["ci95"][1]}
        | {"gate_passed": float(passed)}
    )
    made_by = dict.fromkeys((EVALUATION, REPORT, MODEL_CARD), "evaluate")
    made_by |= {FUSION: "calibrate"}
    for path, stage in (made_by | {DATA_METRICS: "prepare", DATA_PAGE: "prepare"}).items():
        run.artifact(require(path, stage))


def _headline(evaluation: dict[str, Any]) -> dict[str, float]:
    singles = {f"accuracy.{name}": one["accuracy"] for name, one in evaluation["single"].items()}
    return {
        "accuracy": evaluation["fused"]["accuracy"],
        "macro_f1": evaluation["fused"]["macro_f1"],
        "nll": evaluation["fused"]["nll"],
        "ece": evaluation["fused"]["ece"],
        "gain": evaluation["gain"]["accuracy"],
        "mcnemar_p": evaluation["gain"]["mcnemar_p"],
        **singles,
    }


def _version_of(
    params: Params,
    tracking: Tracking,
    run: RunLog,
    fusion: Fusion,
    files: dict[str, Path],
    content: str,
    evaluation: dict[str, Any],
) -> str:
    """The version of this content: the one that is there, else a new one."""
    name = params.registry.model_name
    found = find_version(tracking, name, content)
    if found is not None:
        return found
    # The example is drawn, so that no picture of a person ends up in a registry.
    example = draw_face(3, np.random.default_rng(params.seed))[None]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        write_bundle(bundle, params.backbones, fusion, files, params.predict.views)
        tags = {CONTENT_TAG: content, **_lineage(params, fusion), **_figures(evaluation)}
        return register_version(tracking, name, run.run_id, bundle, example, tags)


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
        "fusion.method": fusion.method,
        "fusion.weights": json.dumps(fusion.weights),
        "params": params.model_dump_json(),
        **{f"dvc.{path}": hashes.get(str(path), "untracked") for path in tracked},
    }


def _figures(evaluation: dict[str, Any]) -> dict[str, str]:
    return {key: f"{value:.6g}" for key, value in _headline(evaluation).items()}


if __name__ == "__main__":
    sys.exit(run_stage(register, "Register the fused model in MLflow if it passes the gate."))

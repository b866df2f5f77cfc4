"""Stage `evaluate`: the only one that opens the labels of test, and the report on what it saw."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_pipeline.data.faces import Split, load_split
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.cases import find_cases
from fer_pipeline.evaluation.comparison import TestLogits, compare, top1_accuracy
from fer_pipeline.evaluation.gate import judge
from fer_pipeline.evaluation.metrics import FloatArray, confusion
from fer_pipeline.evaluation.reliability import reliability
from fer_pipeline.files import write_csv, write_json, write_text
from fer_pipeline.fusion.average import fuse
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import read_fusion
from fer_pipeline.paths import (
    ACCURACY,
    DATA_METRICS,
    EVALUATION,
    FUSION,
    MODEL_CARD,
    REPORT,
    SIMPLEX,
    SUMMARY,
    TEST,
    VAL,
    confusion_file,
    provenance,
    require,
    training_curve,
)
from fer_pipeline.provenance import git_state
from fer_pipeline.reports.card import render_model_card
from fer_pipeline.reports.report import ReportInputs, render_report

if TYPE_CHECKING:
    from pathlib import Path

    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)

CASES = 12
"""Faces of each kind in the report."""


def evaluate(params: Params) -> None:
    """Write `metrics/evaluation.json`, its summary, confusion matrices and the report."""
    names = list(params.backbones)
    split = load_split(TEST)
    fusion = read_fusion(FUSION)
    logits = read_logits(names, "test")
    weights = np.array([fusion.weights[name] for name in names])
    test = TestLogits(
        fused=fuse(logits, weights),
        temperature=fusion.temperature,
        single=dict(zip(names, logits, strict=True)),
        labels=split.labels,
        groups=split.groups,
    )
    evaluation = _evaluation(params, test, split, _val_accuracies(names, weights))
    write_json(EVALUATION, evaluation)
    write_json(SUMMARY, _summary(evaluation))
    write_csv(ACCURACY, _accuracy_rows(evaluation))
    predicted = {"fused": test.fused} | test.single
    for model, model_logits in predicted.items():
        _write_confusion(model_logits, split, confusion_file(model))
    inputs = _report_inputs(params, evaluation, predicted, test, split)
    write_text(REPORT, render_report(inputs))
    write_text(MODEL_CARD, render_model_card(inputs))
    _announce(evaluation)


def _evaluation(
    params: Params, test: TestLogits, split: Split, val: dict[str, Any]
) -> dict[str, Any]:
    # Chosen on val, since test is only for reporting.
    best_single = max(val["single"], key=val["single"].__getitem__)
    clean = ~split.in_train
    pixels = hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()
    block = compare(test, best_single, params.evaluation, params.seed)
    return {
        "protocol": params.data.protocol,
        "test": {"images": block.pop("images"), "sha256": pixels},
        "val": val,
        **block,
        "methods": _method_accuracies(test),
        "clean": compare(test.select(clean), best_single, params.evaluation, params.seed)
        if clean.any()
        else None,
    }


def _val_accuracies(names: list[str], weights: FloatArray) -> dict[str, Any]:
    labels, logits = load_split(VAL).labels, read_logits(names, "val")
    return {
        "images": len(labels),
        "fused": top1_accuracy(fuse(logits, weights), labels),
        "single": {
            name: top1_accuracy(one, labels) for name, one in zip(names, logits, strict=True)
        },
    }


def _method_accuracies(test: TestLogits) -> dict[str, Any]:
    """Accuracy of every fusion method; which one counts was named beforehand."""
    methods = json.loads(FUSION.read_text(encoding="utf-8"))["methods"]
    stack = np.stack(list(test.single.values()))
    return {
        method: {
            "val_accuracy": found["val_accuracy"],
            "test_accuracy": top1_accuracy(
                fuse(stack, np.array([found["weights"][name] for name in test.single])),
                test.labels,
            ),
        }
        for method, found in methods.items()
    }


def _summary(evaluation: dict[str, Any]) -> dict[str, object]:
    """The few figures that `dvc metrics show` and `dvc exp show` can hold in one line."""
    return {
        "fused": evaluation["fused"]["accuracy"],
        "single": {name: one["accuracy"] for name, one in evaluation["single"].items()},
        "gain": evaluation["gain"]["accuracy"],
        "mcnemar_p": evaluation["gain"]["mcnemar_p"],
        "fused_macro_f1": evaluation["fused"]["macro_f1"],
        "fused_clean": (evaluation["clean"] or {}).get("fused", {}).get("accuracy"),
    }


def _accuracy_rows(evaluation: dict[str, Any]) -> list[dict[str, object]]:
    models = {"fused": evaluation["fused"]} | evaluation["single"]
    return [{"model": name, "accuracy": one["accuracy"]} for name, one in models.items()]


def _write_confusion(logits: FloatArray, split: Split, path: Path) -> None:
    """One row per test image, as DVC's confusion template counts them."""
    rows = [
        {"actual": EMOTIONS[label], "predicted": EMOTIONS[guess]}
        for label, guess in zip(split.labels, logits.argmax(axis=1), strict=True)
    ]
    write_csv(path, rows)


def _report_inputs(
    params: Params,
    evaluation: dict[str, Any],
    predicted: dict[str, FloatArray],
    test: TestLogits,
    split: Split,
) -> ReportInputs:
    verdict = judge(evaluation, params.gate)
    cases = find_cases(test, evaluation["best_single"], CASES)
    bins = params.evaluation.ece_bins
    return ReportInputs(
        evaluation=evaluation,
        fusion=json.loads(FUSION.read_text(encoding="utf-8")),
        data=json.loads(require(DATA_METRICS, "prepare").read_text(encoding="utf-8")),
        gate_passed=verdict.passed,
        gate_reasons=verdict.reasons,
        curves={
            name: _read_csv(require(training_curve(name), f"train@{name}"))
            for name in params.backbones
        },
        simplex=_read_csv(require(SIMPLEX, "calibrate")),
        confusions={
            name: confusion(logits.argmax(axis=1), split.labels)
            for name, logits in predicted.items()
        },
        cases=cases,
        faces={
            case.row: split.images[case.row]
            for case in (*cases.rescued, *cases.broken, *cases.mistakes)
        },
        calibration=(
            reliability(test.fused, test.labels, 1.0, bins),
            reliability(test.fused, test.labels, test.temperature, bins),
        ),
        provenance={
            name: json.loads(require(provenance(name), f"train@{name}").read_text(encoding="utf-8"))
            for name in params.backbones
        },
        commit=git_state().commit,
        recipe={
            "seed": params.seed,
            "backbones": {
                name: {
                    "weights": own.weights,
                    "image_size": own.image_size,
                    "head_epochs": own.head.epochs if own.head else 0,
                    "finetune_epochs": own.finetune.epochs,
                }
                for name, own in params.backbones.items()
            },
        },
    )


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _announce(evaluation: dict[str, Any]) -> None:
    for name, one in evaluation["single"].items():
        log.info("  %-14s %6.2f %%", name, 100 * one["accuracy"])
    gain = evaluation["gain"]
    log.info(
        "  %-14s %6.2f %%  (%+.2f points on %s, McNemar p %.4f); report in %s",
        "fused",
        100 * evaluation["fused"]["accuracy"],
        100 * gain["accuracy"],
        evaluation["best_single"],
        gain["mcnemar_p"],
        REPORT,
    )

"""Stage `evaluate`: the fused and the single models on test, in numbers."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_pipeline.data.examples import Example, write_examples
from fer_pipeline.data.faces import Split, load_split
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.cases import Cases, find_cases
from fer_pipeline.evaluation.comparison import TestLogits, compare, top1_accuracy
from fer_pipeline.evaluation.metrics import FloatArray, confusion
from fer_pipeline.evaluation.reliability import reliability
from fer_pipeline.files import write_csv, write_json
from fer_pipeline.fusion.average import fuse
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import read_fusion
from fer_pipeline.paths import (
    ACCURACY,
    EVALUATION,
    FUSION,
    SUMMARY,
    TEST,
    TEST_EXAMPLES,
    VAL,
    confusion_file,
)

if TYPE_CHECKING:
    from pathlib import Path

    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)

CASES = 12
"""Faces of each kind that are picked for the report."""


def evaluate(params: Params) -> None:
    """Write `metrics/evaluation.json`, its summary, confusion matrices and faces for the report."""
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
    cases = find_cases(test, evaluation["best_single"], CASES)
    evaluation["cases"] = cases.images
    write_json(EVALUATION, evaluation)
    write_json(SUMMARY, _summary(evaluation))
    write_csv(ACCURACY, _accuracy_rows(evaluation))
    predicted = {"fused": test.fused} | test.single
    for model, model_logits in predicted.items():
        _write_confusion(model_logits, split, confusion_file(model))
    write_examples(TEST_EXAMPLES, _examples(cases, split))
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
        "confusion": _confusions(test),
        "reliability": {
            "before": _bins(test, 1.0, params.evaluation.ece_bins),
            "after": _bins(test, test.temperature, params.evaluation.ece_bins),
        },
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


def _confusions(test: TestLogits) -> dict[str, Any]:
    """Counts of images of the fused model and of each backbone: rows actual, columns predicted."""
    predicted = {"fused": test.fused} | test.single
    return {
        name: confusion(logits.argmax(axis=1), test.labels).tolist()
        for name, logits in predicted.items()
    }


def _bins(test: TestLogits, temperature: float, bins: int) -> list[dict[str, Any]]:
    return [asdict(one) for one in reliability(test.fused, test.labels, temperature, bins)]


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


def _examples(cases: Cases, split: Split) -> list[Example]:
    """The pixels of every case, kind by kind."""
    return [
        Example(kind, split.images[case.row], asdict(case))
        for kind, found in cases.examples.items()
        for case in found
    ]


def _announce(evaluation: dict[str, Any]) -> None:
    for name, one in evaluation["single"].items():
        log.info("  %-14s %6.2f %%", name, 100 * one["accuracy"])
    gain = evaluation["gain"]
    log.info(
        "  %-14s %6.2f %%  (%+.2f points on %s, McNemar p %.4f)",
        "fused",
        100 * evaluation["fused"]["accuracy"],
        100 * gain["accuracy"],
        evaluation["best_single"],
        gain["mcnemar_p"],
    )

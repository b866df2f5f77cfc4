"""Stage `evaluate`: the fused and the single models on test, in numbers."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline import paths
from fer_pipeline.arrays import FloatArray
from fer_pipeline.data.faces import Example, Split, load_split, split_sha256, write_examples
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.comparison import Cases, TestLogits, compare, find_cases
from fer_pipeline.evaluation.metrics import confusion, reliability
from fer_pipeline.evaluation.result import Evaluation, MethodAccuracies, Reliability, ValAccuracies
from fer_pipeline.files import write_csv, write_json
from fer_pipeline.fusion.average import fuse, top1_accuracy
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import Fusion, read_fusion

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)

CASES = 12
"""Faces of each kind that are picked for the report."""


def evaluate(params: Params) -> None:
    """Write `metrics/evaluation.json`, its summary, confusion matrices and faces for the report."""
    names = list(params.backbones)
    split, fusion = load_split(paths.TEST), read_fusion(paths.FUSION)
    fusion.require_predictions(names)
    logits = read_logits(names, "test", len(split))
    weights = np.array([fusion.weights[name] for name in names])
    test = TestLogits(
        fused=fuse(logits, weights),
        temperature=fusion.temperature,
        single=dict(zip(names, logits, strict=True)),
        labels=split.labels,
        groups=split.groups,
    )
    val = _val_accuracies(names, weights)
    cases = find_cases(test, val.best_single, CASES)
    evaluation = _evaluation(params, test, split, fusion, val, cases)
    write_json(paths.EVALUATION, evaluation.to_json())
    write_json(paths.SUMMARY, _summary(evaluation))
    scores = evaluation.test.models.items()
    write_csv(paths.ACCURACY, [{"model": name, "accuracy": one.accuracy} for name, one in scores])
    for model, own in test.models.items():
        pairs = zip(split.labels, own.argmax(axis=1), strict=True)
        rows = [{"actual": EMOTIONS[label], "predicted": EMOTIONS[guess]} for label, guess in pairs]
        # One row per image, as DVC's template counts them.
        write_csv(paths.confusion_file(model), rows)
    examples = [
        Example(kind, split.images[case.row], asdict(case))
        for kind, found in cases.examples.items()
        for case in found
    ]
    write_examples(paths.TEST_EXAMPLES, examples)
    _announce(evaluation)


def _evaluation(
    params: Params, test: TestLogits, split: Split, fusion: Fusion, val: ValAccuracies, cases: Cases
) -> Evaluation:
    clean, bins = ~split.in_train, params.evaluation.ece_bins
    return Evaluation(
        protocol=params.data.protocol,
        test_sha256=split_sha256(split),
        val=val,
        test=compare(test, val.best_single, params.evaluation, params.seed),
        methods=_method_accuracies(fusion, test),
        clean=compare(test.select(clean), val.best_single, params.evaluation, params.seed)
        if clean.any()
        else None,
        cases=cases.images,
        confusion={name: confusion(one, test.labels) for name, one in test.models.items()},
        reliability=Reliability(
            before=reliability(test.fused, test.labels, 1.0, bins),
            after=reliability(test.fused, test.labels, test.temperature, bins),
        ),
    )


def _val_accuracies(names: list[str], weights: FloatArray) -> ValAccuracies:
    labels = load_split(paths.VAL).labels
    logits = read_logits(names, "val", len(labels))
    return ValAccuracies(
        images=len(labels),
        fused=top1_accuracy(fuse(logits, weights), labels),
        single={name: top1_accuracy(one, labels) for name, one in zip(names, logits, strict=True)},
    )


def _method_accuracies(fusion: Fusion, test: TestLogits) -> dict[str, MethodAccuracies]:
    stack = np.stack(list(test.single.values()))
    found = {}
    for method, own in fusion.methods.items():
        weights = np.array([own["weights"][name] for name in test.single])
        accuracy = top1_accuracy(fuse(stack, weights), test.labels)
        found[method] = MethodAccuracies(own["val_accuracy"], accuracy)
    return found


def _summary(evaluation: Evaluation) -> dict[str, object]:
    """The few figures that `dvc metrics show` and `dvc exp show` print in one line."""
    test = evaluation.test
    return {
        "fused": test.fused.accuracy,
        "single": {name: one.accuracy for name, one in test.single.items()},
        "gain": test.gain.accuracy,
        "mcnemar_p": test.gain.mcnemar_p,
        "fused_macro_f1": test.fused.macro_f1,
        "fused_clean": evaluation.clean.fused.accuracy if evaluation.clean else None,
    }


def _announce(evaluation: Evaluation) -> None:
    test = evaluation.test
    for name, one in test.single.items():
        log.info("  %-14s %6.2f %%", name, 100 * one.accuracy)
    log.info(
        "  %-14s %6.2f %%  (%+.2f points on %s, McNemar p %.4f)",
        "fused",
        100 * test.fused.accuracy,
        100 * test.gain.accuracy,
        test.best_single,
        test.gain.mcnemar_p,
    )

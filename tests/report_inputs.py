"""What a report is made from, as the paper's recipe might give it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pages import make_data

from fer_pipeline.data.faces import Example
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.comparison import Agreement, Comparison
from fer_pipeline.evaluation.gate import Verdict
from fer_pipeline.evaluation.metrics import Bin, ClassScores, Scores
from fer_pipeline.evaluation.result import Evaluation, MethodAccuracies, Reliability, ValAccuracies
from fer_pipeline.evaluation.significance import Gain
from fer_pipeline.fusion.result import Fusion
from fer_pipeline.params.schema import BackboneParams, HeadParams, PhaseParams
from fer_pipeline.reports.report import ReportInputs

IMAGES = (491, 55, 528, 879, 594, 416, 626)
PAPER = ("resnet50", "resnet101", "inception_v3")
METHODS = {"uniform": 1.21, "accuracy": 1.22, "nll": 1.24}
"""Temperatures of some fusion methods."""

BACKBONE = BackboneParams(
    weights="imagenet",
    weights_sha256=None,
    image_size=224,
    eval_resize=224,
    head=HeadParams(epochs=2, batch_size=64, learning_rate=1e-3, cached_views=0),
    finetune=PhaseParams(epochs=6, batch_size=64, learning_rate=1e-3),
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _scores(accuracy: float) -> Scores:
    return Scores(
        accuracy=accuracy,
        macro_f1=accuracy - 0.02,
        nll=1.9 - 1.5 * accuracy,
        brier=1.1 - accuracy,
        ece=0.021,
        per_class={
            emotion: ClassScores(accuracy, accuracy, accuracy, images)
            for emotion, images in zip(EMOTIONS, IMAGES, strict=True)
        },
    )


def _comparison(names: tuple[str, ...], images: int) -> Comparison:
    single = {name: 0.687 - 0.01 * rank for rank, name in enumerate(names)}
    return Comparison(
        images=images,
        fused=_scores(0.718),
        single={name: _scores(accuracy) for name, accuracy in single.items()},
        best_single=names[0],
        gains={name: make_gain(round(0.718 - accuracy, 3)) for name, accuracy in single.items()},
        agreement=Agreement(
            oracle_accuracy=0.802,
            all_agree=0.611,
            disagreement={
                name: {other: 0.25 for other in names if other != name} for name in names
            },
        ),
    )


def make_gain(accuracy: float, mcnemar_p: float = 0.0001) -> Gain:
    return Gain(accuracy, (accuracy - 0.0106, accuracy + 0.0099), mcnemar_p)


def with_gain(evaluation: Evaluation, gain: Gain) -> Evaluation:
    """The evaluation with another gain over the best single model."""
    test = evaluation.test
    gains = {**test.gains, test.best_single: gain}
    return replace(evaluation, test=replace(test, gains=gains))


def make_evaluation(names: tuple[str, ...] = PAPER) -> Evaluation:
    """What an evaluation of the paper's recipe might find."""
    rng = np.random.default_rng(0)
    return Evaluation(
        protocol="official",
        test_sha256="ab" * 32,
        val=ValAccuracies(3589, 0.716, dict.fromkeys(names, 0.68)),
        test=_comparison(names, 3589),
        methods={name: MethodAccuracies(0.716, 0.7177) for name in METHODS},
        clean=_comparison(names, 3310),
        cases={"rescued": 301, "broken": 190, "mistakes": 1012},
        confusion={name: _confusion(rng) for name in ("fused", *names)},
        reliability=Reliability(
            before=(Bin(0.55, 0.41, 900), Bin(0.93, 0.78, 2689)),
            after=(Bin(0.55, 0.54, 1500), Bin(0.9, 0.91, 2089)),
        ),
    )


def _confusion(rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    shares = 0.7 * np.eye(7) + 0.3 * rng.dirichlet(np.ones(7), size=7)
    rows = [rng.multinomial(n, p).tolist() for n, p in zip(IMAGES, shares, strict=True)]
    return tuple(tuple(row) for row in rows)


def make_simplex(names: tuple[str, ...], steps: int = 4) -> list[dict[str, str]]:
    """A grid over the first three weights; the others are 0."""
    rows = []
    for i in range(steps + 1):
        for j in range(steps + 1 - i):
            point = [i / steps, j / steps, (steps - i - j) / steps]
            accuracy = 0.718 - 0.06 * sum((weight - 1 / 3) ** 2 for weight in point)
            weights = [*point, *[0.0] * len(names)][: len(names)]
            rows.append(
                {name: str(weight) for name, weight in zip(names, weights, strict=True)}
                | {"val_accuracy": f"{accuracy:.6f}", "val_nll": "0.8"}
            )
    return rows


def _curve(epochs: int) -> list[dict[str, str]]:
    return [
        {
            "epoch": str(epoch),
            "phase": "head" if epoch <= 2 else "finetune",
            "learning_rate": "0.001",
            "train_loss": "1.0",
            "val_loss": "1.0",
            "val_accuracy": f"{0.7 - 0.4 / epoch:.4f}",
        }
        for epoch in range(1, epochs + 1)
    ]


def _method(names: tuple[str, ...], temperature: float) -> dict[str, Any]:
    return {
        "note": "as a test has it",
        "weights": {name: 1 / len(names) for name in names},
        "temperature": temperature,
        "val_accuracy": 0.716,
        "val_nll": 0.81,
        "stability": {
            kind: {
                "mean": {name: 1 / len(names) for name in names},
                "sd": dict.fromkeys(names, 0.041),
            }
            for kind in ("bootstrap", "folds")
        },
    }


def _examples(rng: np.random.Generator) -> list[Example]:
    happy, sad = EMOTIONS.index("happy"), EMOTIONS.index("sad")
    unsure = {"row": 4, "actual": sad, "fused": happy, "single": sad, "confidence": 0.62}
    facts = [
        ("rescued", unsure | {"row": 3, "actual": happy, "confidence": 0.91}),
        ("broken", unsure),
        ("mistakes", unsure | {"row": 5, "single": happy, "confidence": 0.99}),
        ("mistakes", unsure),
    ]
    return [
        Example(kind, rng.integers(0, 256, (48, 48), dtype=np.uint8), own) for kind, own in facts
    ]


def make_inputs(names: tuple[str, ...] = PAPER, synthetic: bool = False) -> ReportInputs:
    """A result as the paper's recipe might give it."""
    rng = np.random.default_rng(0)
    return ReportInputs(
        evaluation=make_evaluation(names),
        fusion=Fusion(
            method="nll",
            weights={name: 1 / len(names) for name in names},
            temperature=1.24,
            methods={name: _method(names, value) for name, value in METHODS.items()},
        ),
        data=make_data(synthetic=synthetic),
        verdict=Verdict(True, ("fused 71.80% beats resnet50 68.70% by more than 0 points",)),
        curves={name: _curve(8) for name in names},
        simplex=make_simplex(names),
        examples=_examples(rng),
        provenance={
            name: {
                "seconds": 130.0,
                "hardware": "AMD EPYC, 2 cores",
                "precision": "bf16",
                "torch": "2.15.0",
                "commit": COMMIT,
                "dirty": True,
            }
            for name in names
        },
        seed=7,
        backbones=dict.fromkeys(names, BACKBONE),
    )

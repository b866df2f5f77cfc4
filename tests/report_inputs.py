"""What a report is made from, as the paper's recipe might give it."""

from __future__ import annotations

from typing import Any

import numpy as np
from pages import make_data

from fer_pipeline.data.examples import Example
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.gate import Verdict
from fer_pipeline.reports.report import ReportInputs

IMAGES = (491, 55, 528, 879, 594, 416, 626)
PAPER = ("resnet50", "resnet101", "inception_v3")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _scores(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "macro_f1": accuracy - 0.02,
        "nll": 1.9 - 1.5 * accuracy,
        "brier": 1.1 - accuracy,
        "ece": 0.021,
        "per_class": {
            emotion: {"precision": accuracy, "recall": accuracy, "f1": accuracy, "images": images}
            for emotion, images in zip(EMOTIONS, IMAGES, strict=True)
        },
    }


def _comparison(names: tuple[str, ...]) -> dict[str, Any]:
    single = {name: 0.687 - 0.01 * rank for rank, name in enumerate(names)}
    return {
        "fused": _scores(0.718),
        "single": {name: _scores(accuracy) for name, accuracy in single.items()},
        "best_single": names[0],
        "gain": _gain(0.031),
        "gains": {name: _gain(0.718 - accuracy) for name, accuracy in single.items()},
        "agreement": {
            "oracle_accuracy": 0.802,
            "all_agree": 0.611,
            "disagreement": {
                name: {other: 0.25 for other in names if other != name} for name in names
            },
        },
    }


def _gain(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "ci95": [accuracy - 0.0106, accuracy + 0.0099],
        "mcnemar_p": 0.0001,
    }


def _confusion(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    shares = 0.7 * np.eye(7) + 0.3 * rng.dirichlet(np.ones(7), size=7)
    return np.array([rng.multinomial(n, p) for n, p in zip(IMAGES, shares, strict=True)])


def _bin(confidence: float, accuracy: float, images: int) -> dict[str, Any]:
    return {"confidence": confidence, "accuracy": accuracy, "images": images}


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
    methods = {"uniform": 1.21, "accuracy": 1.22, "nll": 1.24}
    return ReportInputs(
        evaluation={
            "protocol": "official",
            "test": {"images": 3589, "sha256": "ab" * 32},
            **_comparison(names),
            "methods": {name: {"test_accuracy": 0.7177} for name in methods},
            "clean": {"images": 3310, **_comparison(names)},
            "cases": {"rescued": 301, "broken": 190, "mistakes": 1012},
            "confusion": {name: _confusion(rng).tolist() for name in ("fused", *names)},
            "reliability": {
                "before": [_bin(0.55, 0.41, 900), _bin(0.93, 0.78, 2689)],
                "after": [_bin(0.55, 0.54, 1500), _bin(0.9, 0.91, 2089)],
            },
        },
        fusion={
            "method": "nll",
            "weights": {name: 1 / len(names) for name in names},
            "temperature": 1.24,
            "methods": {name: _method(names, value) for name, value in methods.items()},
        },
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
        recipe={
            "seed": 7,
            "backbones": {
                name: {
                    "weights": "imagenet",
                    "image_size": 224,
                    "head_epochs": 2,
                    "finetune_epochs": 6,
                }
                for name in names
            },
        },
    )

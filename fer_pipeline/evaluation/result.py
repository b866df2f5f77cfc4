"""What an evaluation found: the content of `metrics/evaluation.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fer_pipeline.evaluation.comparison import Comparison
from fer_pipeline.evaluation.metrics import METRICS, Bin
from fer_pipeline.files import read_json, reading


@dataclass(frozen=True)
class ValAccuracies:
    """Top-1 accuracies on val of the logits that are fused: with test-time augmentation.

    The `val_accuracy` of a training is another figure: it is of the central view alone.
    """

    images: int
    fused: float
    single: dict[str, float]

    @property
    def best_single(self) -> str:
        """Chosen on val: test is for reporting."""
        return max(self.single, key=self.single.__getitem__)


@dataclass(frozen=True)
class MethodAccuracies:
    """Top-1 accuracies of one fusion method."""

    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Reliability:
    """The bins of the fused model's confidence, before and after temperature."""

    before: tuple[Bin, ...] = ()
    after: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The fused and the single models on test. The last three fields are for the report.

    Attributes:
        protocol: which images are val and test, from `data.protocol`.
        test_sha256: digest of the test images and their labels.
        val: what val had said.
        test: the models on all test images.
        methods: accuracies of every fusion method; which one counts was named beforehand.
        clean: the models on the test images that no training image equals; None without any.
        cases: how many test images fusing `rescued`, has `broken`, and are `mistakes`.
        confusion: counts of images per model, rows actual, columns predicted.
        reliability: of the fused model's confidence.
    """

    protocol: str
    test_sha256: str
    val: ValAccuracies
    test: Comparison
    methods: dict[str, MethodAccuracies]
    clean: Comparison | None
    cases: dict[str, int] = field(default_factory=dict)
    confusion: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    reliability: Reliability = field(default_factory=Reliability)

    def to_json(self) -> dict[str, Any]:
        """The content of `metrics/evaluation.json`: the comparison on all of test lies on top."""
        test = self.test.to_json()
        return {
            "protocol": self.protocol,
            "test": {"images": test.pop("images"), "sha256": self.test_sha256},
            "val_tta": asdict(self.val),
            **test,
            "methods": {name: asdict(one) for name, one in self.methods.items()},
            "clean": self.clean.to_json() if self.clean else None,
            "cases": self.cases,
            "confusion": self.confusion,
            "reliability": asdict(self.reliability),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Evaluation:
        """Read what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        test = content["test"]
        fields = {
            **content,
            "test": {**content, "images": test["images"]},
            "test_sha256": test["sha256"],
            "val": content.get("val_tta", content.get("val")),  # the name that it had before
        }
        return TypeAdapter(cls).validate_python(fields)

    def headline(self) -> dict[str, float]:
        """The figures that a run in MLflow and a version in the registry show, by name."""
        fused = {key: getattr(self.test.fused, key) for key in METRICS}
        figures = {key: value for key, value in fused.items() if value is not None}
        for name, one in self.test.single.items():
            figures |= {f"{key}.{name}": getattr(one, key) for key in ("accuracy", "macro_f1")}
        gain = self.test.gain
        figures |= {"gain": gain.accuracy, "mcnemar_p": gain.mcnemar_p}
        figures |= {"gain_ci95_low": gain.ci95[0], "gain_ci95_high": gain.ci95[1]}
        if self.clean is not None:
            figures["clean_accuracy"] = self.clean.fused.accuracy
        return figures


def read_evaluation(path: Path) -> Evaluation:
    """Read `metrics/evaluation.json`.

    Raises:
        DataError: the file is missing or no evaluation.
    """
    with reading(path, "evaluate"):
        return Evaluation.from_json(read_json(path, "evaluate"))

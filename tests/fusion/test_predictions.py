"""Logits that can't be fused are refused where they are read, with their file and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.fusion.predictions import PredictSettings, read_logits, write_predictions
from fer_pipeline.paths import predictions

NAMES = ["resnet50", "inception_v3"]


@pytest.fixture
def logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Those of 3 val and 4 test images, written for both backbones."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    found = {"val": drawn[:3], "test": drawn[3:]}
    for name in NAMES:
        write_predictions(name, found, PredictSettings("flip", 40, 44))
    return found


def test_logits_are_read_as_written_in_the_order_that_is_asked(
    logits: dict[str, np.ndarray],
) -> None:
    np.testing.assert_array_equal(read_logits(NAMES[::-1], "val", 3), [logits["val"]] * 2)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(
    value: float, split: Literal["val", "test"], logits: dict[str, np.ndarray]
) -> None:
    logits[split][[0, 2], 3] = value
    write_predictions(NAMES[1], logits, PredictSettings("flip", 40, 44))
    with pytest.raises(FusionError) as refused:
        read_logits(NAMES, split, len(logits[split]))
    assert str(refused.value) == (
        f"{predictions(NAMES[1])}: the logits of 2 {split} images are not finite: train it again, "
        f"with 'dvc repro --force --single-item train@{NAMES[1]}'"
    )


@pytest.mark.parametrize("shape", [(4, 8), (5, 7), (4,), (0, 7)])
def test_logits_of_another_shape_are_refused(
    shape: tuple[int, ...], logits: dict[str, np.ndarray]
) -> None:
    logits["test"] = np.zeros(shape, np.float32)
    write_predictions(NAMES[1], logits, PredictSettings("flip", 40, 44))
    with pytest.raises(DataError, match=r"inception_v3.npz: test logits have shape \(.*\), not"):
        read_logits(NAMES, "test", 4)

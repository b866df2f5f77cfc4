"""Formula (1) of the paper by hand, and what a file must hold to be a fusion."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.average import fuse, probabilities
from fer_pipeline.fusion.result import Fusion, read_fusion

FUSION = Fusion("nll", {"resnet50": 0.25, "inception_v3": 0.75}, 1.5)


def test_fused_logits_are_the_weighted_average() -> None:
    logits = np.array([[[1.0, 2.0], [0.0, -4.0]], [[3.0, -2.0], [8.0, 4.0]]])  # (2, 2, 2)
    fused = fuse(logits, np.array([0.25, 0.75]))
    assert fused.tolist() == [[2.5, -1.0], [6.0, 2.0]]


def test_a_weight_of_one_gives_back_its_own_model() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 5, 7))
    np.testing.assert_array_equal(fuse(logits, np.array([0.0, 1.0, 0.0])), logits[1])


@pytest.mark.parametrize("weights", [1, 3])
def test_as_many_weights_as_models_are_needed(weights: int) -> None:
    with pytest.raises(FusionError, match=f"2 sets of logits can't be fused by {weights} weights"):
        fuse(np.zeros((2, 4, 7)), np.ones(weights))


def test_probabilities_are_the_softmax_over_the_temperature_however_large_the_logits() -> None:
    logits = np.array([[2 * math.log(3.0), 0.0], [2000.0, 2000.0]])
    assert probabilities(logits, 2.0) == pytest.approx(np.array([[0.75, 0.25], [0.5, 0.5]]))


def test_a_written_fusion_is_read_back_and_further_keys_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "fusion.json"
    path.write_text(json.dumps({**FUSION.to_json(), "methods": {"nll": {}}}))
    assert read_fusion(path) == FUSION


def test_a_missing_fusion_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FusionError) as refused:
        read_fusion(tmp_path / "fusion.json")
    assert str(refused.value) == (
        f"{tmp_path / 'fusion.json'} is missing: run 'dvc repro calibrate'"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b'{"method": "nll", "temperature": 1}',
        b'{"weights": {"a": 1}, "temperature": 1}',
        b'{"method": "nll", "weights": {"a": 1}}',
        b'{"method": "nll", "weights": [1], "temperature": 1}',
        b'{"method": "nll", "weights": {"a": "much"}, "temperature": 1}',
        b'{"method": "nll", "weights": {"a": 1}, "temperature": null}',
    ],
)
def test_what_is_no_fusion_is_named_with_the_command_that_makes_it(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "fusion.json"
    path.write_bytes(content)
    with pytest.raises(FusionError) as refused:
        read_fusion(path)
    assert str(refused.value) == f"{path} is no fusion: run 'dvc repro --force calibrate'"

"""What a file must hold to be a fusion, and which params fit it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.fusion.predictions import PredictSettings, write_predictions
from fer_pipeline.fusion.result import Fusion, read_fusion
from fer_pipeline.params.schema import Params

FUSION = Fusion(
    "nll",
    {"resnet50": 0.25, "inception_v3": 0.75},
    1.5,
    {"resnet50": PredictSettings("flip", 40, 44), "inception_v3": PredictSettings("flip", 75, 75)},
)


def test_only_params_with_the_same_sizes_and_augmentation_fit(params: Params) -> None:
    own = params.backbones["resnet50"].model_copy(update={"image_size": 40, "eval_resize": 44})
    fusion = Fusion("nll", {"resnet50": 1.0}, 1.5, {"resnet50": FUSION.computed["resnet50"]})
    fusion.require_settings({"resnet50": own}, "flip")
    with pytest.raises(FusionError, match=r"with tta flip, .* but params.yaml has tta centre, "):
        fusion.require_settings({"resnet50": own}, "centre")
    with pytest.raises(FusionError, match=r"eval_resize 44, .* eval_resize 48: run 'dvc repro"):
        fusion.require_settings({"resnet50": own.model_copy(update={"eval_resize": 48})}, "flip")


def test_a_written_fusion_is_read_back_and_further_keys_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "fusion.json"
    path.write_text(json.dumps({**asdict(FUSION), "later": {"nll": {}}}))
    assert read_fusion(path) == FUSION


def test_a_missing_fusion_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
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
        b'{"method": "nll", "weights": {"a": 1}, "temperature": NaN}',
        b'{"method": "nll", "weights": {"a": 1}, "temperature": 0}',
        b'{"method": "nll", "weights": {"a": NaN}, "temperature": 1}',
    ],
)
def test_what_is_no_fusion_is_named_with_the_command_that_makes_it(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "fusion.json"
    path.write_bytes(content)
    again = "run 'dvc repro --force --single-item calibrate'"
    with pytest.raises(DataError, match=f"^{path} can't be read .*: {again}$"):
        read_fusion(path)


def test_predictions_that_were_computed_in_another_way_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logits = {"val": np.zeros((2, 7), np.float32), "test": np.zeros((2, 7), np.float32)}
    for name, settings in FUSION.computed.items():
        write_predictions(name, logits, settings)
    names = list(FUSION.weights)
    FUSION.require_predictions(names)
    with pytest.raises(FusionError, match="of other backbones"):
        FUSION.require_predictions([*names, "resnet101"])
    for name, settings in FUSION.computed.items():
        write_predictions(name, logits, replace(settings, tta="centre"))
    with pytest.raises(FusionError, match="run 'dvc repro calibrate'"):
        FUSION.require_predictions(names)

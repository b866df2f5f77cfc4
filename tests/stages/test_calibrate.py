"""The stage `calibrate` on drawn logits: what it writes, and what it refuses before it reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_logits import make_logits

from fer_pipeline.data.faces import Split, save_split
from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.methods import METHODS
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import FUSION, VAL, predictions
from fer_pipeline.stages.calibrate import calibrate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_inputs(val: Split, names: list[str]) -> None:
    VAL.parent.mkdir(parents=True)
    save_split(val, VAL)
    predictions(names[0]).parent.mkdir(parents=True)
    logits = make_logits(val.labels, [1.0, 1.5, 0.5])
    for name, own in zip(names, logits, strict=True):
        np.savez(predictions(name), val_logits=own.astype(np.float32))


def test_the_fusion_says_how_stable_the_weights_of_every_method_are(
    folder: Path, params: Params, splits: dict[str, Split]
) -> None:
    names = list(params.backbones)
    write_inputs(splits["val"], names)
    calibrate(params)
    written = FUSION.read_bytes()
    content = json.loads(written)
    assert list(content["methods"]) == list(METHODS)
    assert content["weights"] == content["methods"][params.fusion.method]["weights"]
    for method, found in content["methods"].items():
        assert list(found) == ["weights", "temperature", "val_accuracy", "val_nll", "stability"]
        for part in ("bootstrap", "folds"):
            assert list(found["stability"][part]["mean"]) == names
            assert list(found["stability"][part]["sd"]) == names
            assert sum(found["stability"][part]["mean"].values()) == pytest.approx(1.0)
        assert 0 <= found["stability"]["folds"]["held_out_accuracy"] <= 1, method
    calibrate(params)
    assert FUSION.read_bytes() == written


def test_a_grid_over_five_backbones_is_refused_before_anything_is_read(
    folder: Path, params: Params
) -> None:
    own = next(iter(params.backbones.values()))
    many = params.model_copy(
        update={
            "backbones": {f"model{n}": own for n in range(5)},
            "fusion": params.fusion.model_copy(update={"method": "grid"}),
        }
    )
    with pytest.raises(FusionError, match="'grid', which takes at most 4 backbones"):
        calibrate(many)

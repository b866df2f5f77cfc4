"""The stage `calibrate` on drawn logits: what it writes, and what it refuses before it reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_logits import make_logits

from fer_pipeline.data.faces import Split, save_split
from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.fusion.methods import METHODS
from fer_pipeline.fusion.predictions import PredictSettings, write_predictions
from fer_pipeline.fusion.result import read_fusion
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import FUSION, VAL, predictions
from fer_pipeline.stages.calibrate import calibrate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


SETTINGS = PredictSettings("flip", 40, 44)


@pytest.fixture
def quick(params: Params) -> Params:
    """Params with few resamples."""
    return params.model_copy(
        update={"fusion": params.fusion.model_copy(update={"stability_draws": 5})}
    )


def write_inputs(val: Split, names: list[str], **others: PredictSettings) -> None:
    """Val and logits of three backbones, computed alike but for those that are given."""
    VAL.parent.mkdir(parents=True)
    save_split(val, VAL)
    logits = make_logits(val.labels, [1.0, 1.5, 0.5])
    for name, own in zip(names, logits, strict=True):
        write_predictions(name, {"val": own.astype(np.float32)}, others.get(name, SETTINGS))


def test_the_fusion_says_how_stable_the_weights_of_every_method_are(
    folder: Path, quick: Params, splits: dict[str, Split]
) -> None:
    names = list(quick.backbones)
    write_inputs(splits["val"], names)
    calibrate(quick)
    written = FUSION.read_bytes()
    content = json.loads(written)
    assert list(content["methods"]) == list(METHODS)
    assert content["weights"] == content["methods"][quick.fusion.method]["weights"]
    for method, found in content["methods"].items():
        assert list(found) == [
            "note",
            "weights",
            "temperature",
            "val_accuracy",
            "val_nll",
            "stability",
        ]
        for part in ("bootstrap", "folds"):
            assert list(found["stability"][part]["mean"]) == names
            assert list(found["stability"][part]["sd"]) == names
            assert sum(found["stability"][part]["mean"].values()) == pytest.approx(1.0)
        assert 0 <= found["stability"]["folds"]["held_out_accuracy"] <= 1, method
    calibrate(quick)
    assert FUSION.read_bytes() == written


def test_the_fusion_says_how_the_logits_were_computed(
    folder: Path, quick: Params, splits: dict[str, Split]
) -> None:
    names = list(quick.backbones)
    larger = PredictSettings("flip", 75, 75)
    write_inputs(splits["val"], names, **{names[2]: larger})
    calibrate(quick)
    computed = dict.fromkeys(names, SETTINGS) | {names[2]: larger}
    assert read_fusion(FUSION).computed == computed


def test_logits_with_different_augmentation_are_not_fused(
    folder: Path, quick: Params, splits: dict[str, Split]
) -> None:
    names = list(quick.backbones)
    write_inputs(splits["val"], names, **{names[1]: PredictSettings("centre", 40, 44)})
    with pytest.raises(FusionError, match=f"{names[0]} with 'flip', {names[1]} with 'centre'"):
        calibrate(quick)
    assert not FUSION.exists()


def test_logits_that_do_not_say_how_they_were_computed_are_refused(
    folder: Path, quick: Params, splits: dict[str, Split]
) -> None:
    names = list(quick.backbones)
    write_inputs(splits["val"], names)
    np.savez(predictions(names[1]), val_logits=np.zeros((len(splits["val"]), 7), np.float32))
    with pytest.raises(
        DataError, match=f"run 'dvc repro --force --single-item predict@{names[1]}'"
    ):
        calibrate(quick)

"""A bundle holds what the predictor needs, and only for the backbones that were fused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.result import Fusion
from fer_pipeline.params.schema import BackboneParams, Params
from fer_pipeline.serving.bundle import (
    Member,
    Spec,
    describe,
    read_spec,
    weights_file,
    write_bundle,
)

FUSION = Fusion("nll", {"inception_v3": 0.3, "resnet50": 0.7}, 1.25)
SPEC = {
    "members": [{"name": "resnet50", "weight": 1.0, "image_size": 32, "eval_resize": 36}],
    "temperature": 1.0,
    "tta": "centre",
}


@pytest.fixture
def backbones(params: Params) -> dict[str, BackboneParams]:
    """In another order than the fusion has them."""
    some = params.backbones
    return {
        "resnet50": some["resnet50"].model_copy(update={"image_size": 32, "eval_resize": 36}),
        "inception_v3": some["inception_v3"].model_copy(
            update={"image_size": 75, "eval_resize": 80}
        ),
    }


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    for name in ("resnet50", "inception_v3"):
        (tmp_path / f"{name}.bin").write_bytes(f"weights of {name}".encode())
    return {name: tmp_path / f"{name}.bin" for name in ("resnet50", "inception_v3")}


def test_a_written_bundle_is_read_back(
    backbones: dict[str, BackboneParams], files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "bundle"
    write_bundle(folder, describe(FUSION, backbones, "five_crops_flip"), files)
    assert read_spec(folder) == Spec(
        members=(Member("resnet50", 0.7, 32, 36), Member("inception_v3", 0.3, 75, 80)),
        temperature=1.25,
        tta="five_crops_flip",
    )
    for name in files:
        assert weights_file(folder, name).read_bytes() == f"weights of {name}".encode()


def test_a_bundle_holds_nothing_but_its_spec_and_its_weights(
    backbones: dict[str, BackboneParams], files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder, describe(FUSION, backbones, "centre"), files)
    assert sorted(path.name for path in folder.iterdir()) == [
        "inception_v3.safetensors", "resnet50.safetensors", "spec.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "weights",
    [
        {"resnet50": 1.0},
        {"resnet50": 0.5, "resnet101": 0.5},
        {"resnet50": 0, "inception_v3": 0, "x": 1},
    ],
)
def test_a_fusion_of_other_backbones_is_refused(
    weights: dict[str, float], backbones: dict[str, BackboneParams]
) -> None:
    with pytest.raises(FusionError) as refused:
        describe(Fusion("nll", weights, 1.0), backbones, "flip")
    assert str(refused.value) == (
        f"the fusion has weights for {', '.join(weights)}, but params.yaml has resnet50, "
        "inception_v3: run 'dvc repro calibrate'"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        json.dumps({"members": SPEC["members"]}).encode(),
        json.dumps({key: SPEC[key] for key in ("members", "temperature")}).encode(),
        json.dumps({"temperature": 1.0}).encode(),
        json.dumps(SPEC | {"temperature": None}).encode(),
        json.dumps(SPEC | {"members": [{"name": "resnet50"}]}).encode(),
        json.dumps(SPEC | {"members": [3]}).encode(),
    ],
)
def test_a_broken_spec_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_bytes(content)
    with pytest.raises(FusionError) as refused:
        read_spec(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'spec.json'} describes no fused model: ")


def test_a_folder_without_a_spec_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(FusionError, match=r"spec\.json describes no fused model"):
        read_spec(tmp_path)

"""A file of initial weights is the one that params pin."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fer_pipeline.errors import FerError
from fer_pipeline.models.catalog import require_weights
from fer_pipeline.params.schema import BackboneParams, Params

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEY = "backbones.resnet50.weights_sha256"


def backbone(params: Params, weights: object, sha256: str | None) -> BackboneParams:
    update = {"weights": str(weights), "weights_sha256": sha256}
    return params.backbones["resnet50"].model_copy(update=update)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(CONTENT)
    return path


def test_the_pinned_file_is_taken_and_the_built_in_choices_need_none(
    file: Path, params: Params
) -> None:
    require_weights("resnet50", backbone(params, file, SHA256))
    require_weights("resnet50", backbone(params, "imagenet", None))
    require_weights("resnet50", backbone(params, "none", None))


def refusal(own: BackboneParams) -> str:
    with pytest.raises(FerError) as refused:
        require_weights("resnet50", own)
    return str(refused.value)


def test_a_file_that_is_not_pinned_is_refused_with_the_value_to_put_there(
    file: Path, params: Params
) -> None:
    says = refusal(backbone(params, file, None))
    assert says == f"{KEY} is null: to train from {file} as it is now, set it to {SHA256}"


def test_another_file_under_the_same_name_is_refused(file: Path, params: Params) -> None:
    file.write_bytes(b"other")
    says = refusal(backbone(params, file, SHA256))
    assert f"{file} has another content than {KEY} says" in says
    assert hashlib.sha256(b"other").hexdigest() in says


def test_a_pin_without_a_file_and_a_missing_file_are_refused(
    tmp_path: Path, params: Params
) -> None:
    says = refusal(backbone(params, "imagenet", SHA256))
    assert says == f"{KEY} is {SHA256}: it must be null, since weights is imagenet and no path"
    says = refusal(backbone(params, tmp_path / "away.pt", SHA256))
    assert says.endswith("away.pt are missing: give the path of a state dict")

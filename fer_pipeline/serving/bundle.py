"""The fused model as one folder: `spec.json` and one safetensors file per backbone.

May it compute in bf16? The record of a version is full float32. Rounded to bf16 its answers differ
a little: how much is measured on val, once, when the model is registered, and kept with the
version. Only a model that hardly changes may answer in bf16, and it does where that is faster.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fer_pipeline.errors import FusionError
from fer_pipeline.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fer_pipeline.fusion.result import Fusion
    from fer_pipeline.params.schema import BackboneParams, Tta

SPEC = "spec.json"

PRECISION_VARIABLE = "FER_SERVING_PRECISION"
"""What sets the precision of a model that MLflow loads; `auto` if it is not set."""

MAX_ACCURACY_CHANGE = 0.002
"""How far the accuracy on val may move, up or down."""

MAX_PROBABILITY_CHANGE = 0.02
"""How far the probability of any emotion may move, on average over val."""

_CHANGE, _TAG = "precision.json", "bf16"


@dataclass(frozen=True)
class Member:
    """One backbone of a bundle: its weight in the fusion and the input it takes."""

    name: str
    weight: float
    image_size: int
    eval_resize: int


@dataclass(frozen=True)
class Spec:
    """What `spec.json` says beside the weights."""

    members: tuple[Member, ...]
    temperature: float
    tta: Tta


@dataclass(frozen=True)
class Bf16Change:
    """What bf16 changes on val.

    Attributes:
        accuracy: that of the fused model in bf16, less that in float32.
        probability: the mean absolute change of an emotion's probability, of the emotion with the
            largest.
    """

    accuracy: float
    probability: float

    @property
    def allowed(self) -> bool:
        return (
            abs(self.accuracy) <= MAX_ACCURACY_CHANGE and self.probability <= MAX_PROBABILITY_CHANGE
        )


@dataclass(frozen=True)
class Bundle:
    """A fused model as files.

    Attributes:
        name: what people call it, such as `fer-fusion version 3`.
        spec: the fused model.
        files: the weights file of each of its backbones.
        bf16: what bf16 changes of its answers; None where that was not measured.
    """

    name: str
    spec: Spec
    files: Mapping[str, Path]
    bf16: Bf16Change | None = None


def describe(fusion: Fusion, backbones: Mapping[str, BackboneParams], tta: Tta) -> Spec:
    """The fused model that a fusion and its backbones are.

    Args:
        fusion: weights and temperature.
        backbones: the sizes of each backbone's input, in the order of the members.
        tta: that of the logits that the fusion was fitted to.

    Raises:
        FusionError: the fusion was fitted to other backbones, or to logits of theirs that were
            computed with other sizes or another test-time augmentation.
    """
    if set(fusion.weights) != set(backbones):
        raise FusionError(
            f"the fusion has weights for {', '.join(fusion.weights)}, but params.yaml has "
            f"{', '.join(backbones)}: run 'dvc repro calibrate'"
        )
    fusion.require_settings(backbones, tta)
    members = tuple(
        Member(name, fusion.weights[name], own.image_size, own.eval_resize)
        for name, own in backbones.items()
    )
    return Spec(members, fusion.temperature, tta)


def write_bundle(folder: Path, spec: Spec, files: Mapping[str, Path]) -> None:
    """Write a spec into a folder, and a copy of the weights file of each backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    for member in spec.members:
        shutil.copyfile(files[member.name], weights_file(folder, member.name))
    write_json(folder / SPEC, asdict(spec))


def read_spec(folder: Path) -> Spec:
    """The description in a bundle, whose backbones and test-time augmentation may be unknown here.

    Raises:
        FusionError: the folder is no bundle.
    """
    path = folder / SPEC
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        members = tuple(Member(**member) for member in content["members"])
        return Spec(members, float(content["temperature"]), cast("Tta", str(content["tta"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FusionError(f"{path} describes no fused model: {error}") from error


def open_bundle(folder: Path, name: str) -> Bundle:
    """The bundle in a folder.

    Raises:
        FusionError: the folder is no bundle.
    """
    spec = read_spec(folder)
    return Bundle(name, spec, {one.name: weights_file(folder, one.name) for one in spec.members})


def bundle_files(folder: Path) -> list[Path]:
    """Everything that a bundle consists of: its spec, then the weights in the spec's order."""
    members = read_spec(folder).members
    return [folder / SPEC, *(weights_file(folder, member.name) for member in members)]


def weights_file(folder: Path, backbone: str) -> Path:
    return folder / f"{backbone}.safetensors"


def write_change(change: Bf16Change | None, folder: Path) -> None:
    write_json(folder / _CHANGE, {"bf16": asdict(change) if change else None})


def read_change(folder: Path) -> Bf16Change | None:
    """What `write_change` wrote; None where nothing was measured, or nothing was written."""
    if not (folder / _CHANGE).is_file():
        return None
    return parse_change(read_json(folder / _CHANGE, "register")["bf16"])


def parse_change(content: Mapping[str, float] | None) -> Bf16Change | None:
    """A change from JSON."""
    return Bf16Change(**content) if content else None


def change_tag(change: Bf16Change | None) -> dict[str, str]:
    """The tag of a version that says it."""
    told = {"allowed": change.allowed, **asdict(change)} if change else None
    return {_TAG: json.dumps(told)}

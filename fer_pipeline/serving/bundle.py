"""The fused model as one folder: `spec.json` and one safetensors file per backbone."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fer_pipeline.errors import FusionError
from fer_pipeline.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fer_pipeline.fusion.result import Fusion
    from fer_pipeline.params.schema import BackboneParams, Tta
    from fer_pipeline.serving.precision import Bf16Change

SPEC = "spec.json"


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

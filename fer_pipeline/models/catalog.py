"""The backbones that `params.yaml` may name: one frozen record each, and no torch import."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fer_pipeline.errors import ParamsError, WeightsError

if TYPE_CHECKING:
    from fer_pipeline.params.schema import BackboneParams


AUXILIARY_MIN_SIZE = 299
"""Pixels: below, Inception's auxiliary head has too little left to pool."""


@dataclass(frozen=True)
class BackboneInfo:
    """What has to be known of a torchvision classification network.

    Attributes:
        name: torchvision's name of its builder.
        paper: where the network was published.
        min_image_size: the smallest square input, in pixels, that its layers accept.
        head: name of the last fully connected layer.
        auxiliary: name of an auxiliary classifier, or empty.
        options: keyword arguments for the builder.
    """

    name: str
    paper: str
    min_image_size: int
    head: str
    auxiliary: str
    options: Mapping[str, bool]


CATALOG: Mapping[str, BackboneInfo] = MappingProxyType(
    {
        info.name: info
        for info in (
            # Residual branches that start at zero (Goyal et al., arXiv 1706.02677) train much
            # sooner from random weights; with loaded weights the option does nothing.
            BackboneInfo(
                "resnet50",
                "He et al., arXiv 1512.03385",
                32,
                "fc",
                "",
                {"zero_init_residual": True},
            ),
            BackboneInfo(
                "resnet101",
                "He et al., arXiv 1512.03385",
                32,
                "fc",
                "",
                {"zero_init_residual": True},
            ),
            # Initialised as PyTorch does by default. The network is built without torchvision's
            # input transform: our input is in [-1, 1] already, as Inception was made for.
            BackboneInfo(
                "inception_v3",
                "Szegedy et al., arXiv 1512.00567",
                75,
                "fc",
                "AuxLogits",
                {"aux_logits": False, "init_weights": False, "transform_input": False},
            ),
        )
    }
)


def require_known(backbones: Mapping[str, BackboneParams]) -> None:
    """Check names and input sizes against the catalogue.

    Raises:
        ParamsError: a backbone is not in the catalogue, or its image size is too small for it.
    """
    for name, params in backbones.items():
        info = CATALOG.get(name)
        if info is None:
            raise ParamsError(
                f"backbones.{name} is not a known backbone: choose among {', '.join(CATALOG)}"
            )
        if params.image_size < info.min_image_size:
            raise ParamsError(
                f"backbones.{name}.image_size is {params.image_size}: "
                f"it must be at least {info.min_image_size}"
            )
        if params.auxiliary_weight and not info.auxiliary:
            raise ParamsError(
                f"backbones.{name}.auxiliary_weight is {params.auxiliary_weight}: it has no "
                f"auxiliary head, so it must be 0"
            )
        if params.auxiliary_weight and params.image_size < AUXILIARY_MIN_SIZE:
            raise ParamsError(
                f"backbones.{name}.image_size is {params.image_size}: the auxiliary head needs "
                f"{AUXILIARY_MIN_SIZE} or more; set auxiliary_weight to 0 below that"
            )


def weights_file(weights: str) -> Path | None:
    """The file that `weights` of a backbone's params names, where it names one."""
    return None if weights in ("none", "imagenet") else Path(weights)


def require_weights(name: str, params: BackboneParams) -> None:
    """Check that a file of initial weights is the one that params pin by its sha256.

    Raises:
        WeightsError: the file is missing, or another one.
        ParamsError: it is not pinned, or there is no file to pin.
    """
    path, pinned = weights_file(params.weights), params.weights_sha256
    key = f"backbones.{name}.weights_sha256"
    if path is None:
        if pinned is not None:
            raise ParamsError(
                f"{key} is {pinned}: it must be null, since weights is {params.weights} and no path"
            )
        return
    if not path.is_file():
        raise WeightsError(f"weights {path} are missing: give the path of a state dict")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if pinned is None:
        raise ParamsError(f"{key} is null: to train from {path} as it is now, set it to {found}")
    if found != pinned:
        raise WeightsError(
            f"{path} has another content than {key} says, which is {pinned}: put that file back, "
            f"or set the key to {found}"
        )

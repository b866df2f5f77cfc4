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


@dataclass(frozen=True)
class BackboneInfo:
    """What has to be known of a torchvision classification network.

    Attributes:
        name: torchvision's name of its builder.
        paper: where the network was published.
        min_image_size: the smallest square input, in pixels, that its layers accept.
        options: keyword arguments for the builder.
        head: name of the last fully connected layer.
    """

    name: str
    paper: str
    min_image_size: int
    options: Mapping[str, bool]
    head: str = "fc"


# Residual branches that start at zero (Goyal et al., arXiv 1706.02677) train much sooner from
# random weights; with loaded weights the option does nothing.
_RESNET = {"zero_init_residual": True}
# Initialised as PyTorch does by default. The network is built without torchvision's input
# transform: our input is in [-1, 1] already, as Inception was made for.
_INCEPTION = {"aux_logits": False, "init_weights": False, "transform_input": False}

_BACKBONES = (
    BackboneInfo("resnet50", "He et al., arXiv 1512.03385", 32, _RESNET),
    BackboneInfo("resnet101", "He et al., arXiv 1512.03385", 32, _RESNET),
    BackboneInfo("inception_v3", "Szegedy et al., arXiv 1512.00567", 75, _INCEPTION),
)
CATALOG: Mapping[str, BackboneInfo] = MappingProxyType({info.name: info for info in _BACKBONES})


def require_known(backbones: Mapping[str, BackboneParams]) -> None:
    """Check names and input sizes against the catalogue.

    Raises:
        ParamsError: a backbone is not in the catalogue, or its image size is too small for it.
    """
    for name, params in backbones.items():
        if name not in CATALOG:
            known = ", ".join(CATALOG)
            raise ParamsError(f"backbones.{name} is not a known backbone: choose among {known}")
        size, least = params.image_size, CATALOG[name].min_image_size
        if size < least:
            raise ParamsError(f"backbones.{name}.image_size is {size}: it must be at least {least}")


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

"""torchvision's networks with a 7-way head, from ImageNet's weights, a state dict, or none.

Input is (B, 3, S, S) in [-1, 1], output (B, 7) logits, for every backbone alike.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import WeightsError, one_line
from fer_pipeline.models.catalog import CATALOG, BackboneInfo, weights_file


@contextmanager
def _compiler_when_asked() -> Iterator[None]:
    """Import torchvision without torch's compiler, which takes longer than all the rest of it.

    Its layers for regions of interest, which no backbone has, import the compiler for one question
    that they ask when they are called.
    """

    def is_compile_supported(device: str) -> bool:
        compiler = importlib.import_module("torch._dynamo.utils")
        return bool(compiler.is_compile_supported(device))

    names = {"torch._dynamo", "torch._dynamo.utils"} - set(sys.modules)
    for name in names:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name])["is_compile_supported"] = is_compile_supported
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with _compiler_when_asked():
    from torchvision.models import get_model, get_model_weights

_PARALLEL = "module."
"""What DataParallel and DistributedDataParallel put before the name of every entry."""


class _NothingDrawn(TorchFunctionMode):
    """Weights are not drawn at random, which takes longer than to read them from a file."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        drawn = function in (Tensor.normal_, Tensor.uniform_)
        return args[0] if drawn else function(*args, **(kwargs or {}))


def build_backbone(name: str, weights: str, dropout: float | None = None) -> nn.Module:
    """Build a network of the catalogue with a new 7-way head.

    Args:
        name: a key of `CATALOG`.
        weights: `none`, `imagenet` (from torchvision's cache, else fetched), or the path of
            a state dict (`.safetensors`, or anything `torch.load(weights_only=True)` reads).
        dropout: probability before the head; None keeps the network's own.

    Raises:
        WeightsError: the weights can't be had, or don't fit the network.
    """
    info = CATALOG[name]
    model: nn.Module = get_model(name, weights=None, num_classes=NUM_EMOTIONS, **info.options)
    _move_dropout(model, info, dropout)
    if weights != "none":
        path = weights_file(weights)
        state = _read_state(path) if path else _fetch_imagenet(name)
        _load_all_but_head(model, state, info, weights)
    return model.to(memory_format=torch.channels_last)


def load_trained(name: str, path: Path) -> nn.Module:
    """A backbone with the weights that training saved, in eval mode.

    Raises:
        WeightsError: the file is missing, damaged, or of another network.
    """
    with _NothingDrawn():
        model = build_backbone(name, "none")
    try:
        model.load_state_dict(_read_state(path))
    except (WeightsError, RuntimeError) as error:
        reason = error if isinstance(error, WeightsError) else f"does not fit: {one_line(error)}"
        raise WeightsError(
            f"{path} is no trained {name} ({reason}): put back the file that training wrote, "
            f"or run 'dvc repro --force --single-item train@{name}'"
        ) from error
    return model.eval()


def head_of(model: nn.Module, name: str) -> nn.Module:
    """The last fully connected layer: the only one that the head phase trains."""
    return model.get_submodule(CATALOG[name].head)


def _move_dropout(model: nn.Module, info: BackboneInfo, probability: float | None) -> None:
    """Make dropout a part of the head, so that it acts whenever the head is trained.

    A hook, not a layer: another layer would change the names of the head's weights.
    """
    own = getattr(model, "dropout", None)
    if isinstance(own, nn.Dropout):
        probability = own.p if probability is None else probability
        own.p = 0.0
    if probability:
        model.get_submodule(info.head).register_forward_pre_hook(
            lambda head, inputs: (functional.dropout(inputs[0], probability, head.training),)
        )


def _fetch_imagenet(name: str) -> Mapping[str, Tensor]:
    weights = get_model_weights(name).DEFAULT
    file_name = weights.url.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True, map_location="cpu"
        )
    except OSError as error:
        raise WeightsError(
            f"ImageNet weights of {name} can't be fetched ({one_line(error)}): put "
            f"{file_name} into {folder}, or set backbones.{name}.weights to none or a path"
        ) from error
    except Exception as error:  # torch.load raises whatever it stumbles on in a damaged file
        raise WeightsError(
            f"{folder / file_name} is damaged ({one_line(error)}): delete it and try again"
        ) from error
    return _require_state(state, folder / file_name)


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"weights {path} are missing: give the path of a state dict")
    try:
        if path.suffix == ".safetensors":
            state: Mapping[str, Tensor] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever it stumbles on in a damaged file
        # torch says at length how to load what may run code.
        unsafe = "weights_only" in str(error)
        reason = "more than tensors, save model.state_dict()" if unsafe else one_line(error)
        raise WeightsError(f"weights {path} can't be read: {reason}") from error
    state = _require_state(state, path)
    if all(key.startswith(_PARALLEL) for key in state):
        return {key.removeprefix(_PARALLEL): value for key, value in state.items()}
    return state


def _require_state(state: object, path: Path) -> Mapping[str, Tensor]:
    if isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    raise WeightsError(f"weights {path} are no state dict: save model.state_dict()")


def _load_all_but_head(
    model: nn.Module, state: Mapping[str, Tensor], info: BackboneInfo, weights: str
) -> None:
    """Load everything but the head, whose 1,000 classes are not ours, and Inception's second."""
    dropped = (f"{info.head}.", "AuxLogits.")
    kept = {key: value for key, value in state.items() if not key.startswith(dropped)}
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise WeightsError(
            f"weights {weights} do not fit {info.name}: {one_line(error)}"
        ) from error
    missing = [key for key in missing if not key.startswith(dropped)]
    if missing or unexpected:
        raise WeightsError(
            f"weights {weights} do not fit {info.name}: "
            f"{len(missing)} entries missing, {len(unexpected)} unknown, "
            f"such as {(missing + unexpected)[0]}"
        )

"""Multi-model fusion: a weighted average of logits, then softmax (Cao et al., section 2.4)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fer_pipeline.errors import FusionError


@dataclass(frozen=True)
class Fusion:
    """What `models/fused/fusion.json` says.

    Attributes:
        method: the fusion method that counts.
        weights: per backbone, non-negative, summing to 1.
        temperature: the fused logits are divided by it before softmax.
    """

    method: str
    weights: dict[str, float]
    temperature: float

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def read_fusion(path: Path) -> Fusion:
    """Read `fusion.json`; keys beyond those of `Fusion` are ignored.

    Raises:
        FusionError: the file is missing or no fusion.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in content["weights"].items()}
        return Fusion(content["method"], weights, float(content["temperature"]))
    except FileNotFoundError:
        raise FusionError(f"{path} is missing: run 'dvc repro calibrate'") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FusionError(f"{path} is no fusion: run 'dvc repro --force calibrate'") from error


def fuse_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """Weighted average fusion, formula (1) of Cao et al.

    Args:
        logits: (M, N, C), one slice per backbone.
        weights: (M,), non-negative, summing to 1.

    Returns:
        (N, C) fused logits.

    Raises:
        FusionError: M differs between the two.
    """
    if len(logits) != len(weights):
        raise FusionError(f"{len(logits)} sets of logits can't be fused by {len(weights)} weights")
    return torch.einsum("m,mnc->nc", weights, logits)  # (N, C)


def probabilities(fused_logits: Tensor, temperature: float) -> Tensor:
    """(N, C) calibrated probabilities: softmax of the logits over the temperature."""
    return torch.softmax(fused_logits / temperature, dim=1)

"""Multi-model fusion: a weighted average of logits, then softmax (Cao et al., section 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from fer_pipeline.errors import FusionError


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

"""What a batch's targets are, and how far a network's outputs are from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Targets:
    """Labels of a batch, perhaps mixed.

    Attributes:
        labels: (B,) int64.
        others: (B,) int64, the labels of what was mixed in, or None.
        share: weight of `labels` in the loss; `others` have the rest.
    """

    labels: Tensor
    others: Tensor | None = None
    share: float = 1.0

    def select(self, rows: slice) -> Targets:
        others = None if self.others is None else self.others[rows]
        return Targets(self.labels[rows], others, self.share)


def mix(
    batch: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Targets]:
    """Mixup (Zhang et al., arXiv 1710.09412): each image with another one of its batch.

    Args:
        batch: (B, ...) network inputs.
        labels: (B,).
        alpha: parameter of the beta distribution of the share; 0 mixes nothing.
        rng: draws the share and the partners.
    """
    if not alpha:
        return batch, Targets(labels)
    share = float(rng.beta(alpha, alpha))
    partners = torch.from_numpy(rng.permutation(len(batch))).to(batch.device)
    mixed = torch.lerp(batch[partners], batch, share)
    return mixed, Targets(labels, labels[partners], share)


def classification_loss(
    output: Tensor | tuple[Tensor, Tensor], targets: Targets, smoothing: float, auxiliary: float
) -> Tensor:
    """Mean cross-entropy in nats.

    Args:
        output: (B, C) logits, or Inception's pair of logits and auxiliary logits.
        targets: the targets of the same B images.
        smoothing: label smoothing (Szegedy et al., arXiv 1512.00567).
        auxiliary: weight of the auxiliary logits' loss.
    """
    if not isinstance(output, Tensor):
        logits, second = output
        rest = classification_loss(second, targets, smoothing, 0.0)
        return classification_loss(logits, targets, smoothing, 0.0) + auxiliary * rest
    loss = functional.cross_entropy(output.float(), targets.labels, label_smoothing=smoothing)
    if targets.others is None:
        return loss
    other = functional.cross_entropy(output.float(), targets.others, label_smoothing=smoothing)
    return targets.share * loss + (1.0 - targets.share) * other

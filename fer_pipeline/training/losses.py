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
        shares: (2,) weights of `labels` and of `others` in the loss, or None.
    """

    labels: Tensor
    others: Tensor | None = None
    shares: Tensor | None = None

    def select(self, rows: slice) -> Targets:
        others = None if self.others is None else self.others[rows]
        return Targets(self.labels[rows], others, self.shares)


def draw_mixup(images: int, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the partners of so many images, and the weights of an image and of its partner.

    Args:
        images: B.
        alpha: parameter of the beta distribution; 0 gives each image itself, with all the weight.
        rng: what draws.

    Returns:
        (B,) int64 and (2,) float32, on the CPU.
    """
    if not alpha:
        return torch.arange(images), torch.tensor([1.0, 0.0])
    share = float(rng.beta(alpha, alpha))
    return torch.from_numpy(rng.permutation(images)), torch.tensor([share, 1.0 - share])


def mix(batch: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> tuple[Tensor, Targets]:
    """Mixup (Zhang et al., arXiv 1710.09412): each image with another one of its batch.

    Args:
        batch: (B, ...) network inputs.
        labels: (B,).
        partners, shares: from `draw_mixup`, on the device of `batch`.
    """
    mixed = torch.lerp(batch[partners], batch, shares[0])
    return mixed, Targets(labels, labels[partners], shares)


def classification_loss(logits: Tensor, targets: Targets, smoothing: float) -> Tensor:
    """Mean cross-entropy in nats.

    Args:
        logits: (B, C).
        targets: the targets of the same B images.
        smoothing: label smoothing (Szegedy et al., arXiv 1512.00567).
    """
    loss = functional.cross_entropy(logits.float(), targets.labels, label_smoothing=smoothing)
    if targets.others is None or targets.shares is None:
        return loss
    other = functional.cross_entropy(logits.float(), targets.others, label_smoothing=smoothing)
    return targets.shares[0] * loss + targets.shares[1] * other

"""What the frozen part of a network makes of each image, computed once for many epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@torch.no_grad()
def compute_features(
    model: nn.Module,
    head: nn.Module,
    images: Tensor,
    batch_size: int,
    prepare: Callable[[Tensor], Tensor],
    on_batch: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """The head's inputs.

    Args:
        model: in eval mode.
        head: its last layer.
        images: (N, 48, 48) uint8.
        batch_size: images per forward pass.
        prepare: makes a batch of images the network's input.
        on_batch: called with the number of images after each batch.

    Returns:
        (N, D) float32, on the device of `images`.
    """
    features = []
    with _inputs_of(head) as seen:
        for batch in torch.split(images, batch_size):
            model(prepare(batch))
            features.append(seen.pop().float())
            on_batch(len(batch))
    return torch.cat(features)  # (N, D)


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()

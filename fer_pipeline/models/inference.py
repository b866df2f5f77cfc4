"""Logits of a backbone for many images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.models.inputs import centre_batch


def pick_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def compute_logits(
    model: nn.Module,
    images: Tensor,
    image_size: int,
    resize: int,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Run a backbone in eval mode over centred images.

    Args:
        model: on the device of `images`; its training mode is restored afterwards.
        images: (N, 48, 48) uint8.
        image_size, resize: as `centre_batch` takes them.
        batch_size: images per forward pass.
        on_batch: called with the number of images after each batch.

    Returns:
        (N, C) float32 logits on the device of `images`.
    """
    if not len(images):
        return torch.empty(0, NUM_EMOTIONS, device=images.device)
    logits = []
    with _eval_mode(model):
        for batch in torch.split(images, batch_size):
            logits.append(model(centre_batch(batch, image_size, resize)).float())
            on_batch(len(batch))
    return torch.cat(logits)  # (N, C)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:  # also where memory did not suffice: the caller may go on with smaller batches
        for module, training in modes:
            module.training = training

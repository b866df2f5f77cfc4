"""Logits of a backbone for many images, batch by batch, in float32 without shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.models.transforms import distinct_views, view_batch

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Tta


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
    *,
    tta: Tta = "centre",
) -> Tensor:
    """Run a backbone in eval mode over images, and average the logits of each image's views.

    The ten views are those of Krizhevsky et al. (2012), who average probabilities. Here the
    logits are averaged: up to a constant per image, which no softmax sees, that is the mean of
    the log-probabilities, a logarithmic opinion pool (Heskes, 1998). It is linear like the fusion
    of the backbones, so that the order of the two averages makes no difference, and what comes
    out is logits, to which weights and a temperature can be fitted.

    Args:
        model: on the device of `images`; its training mode is restored afterwards.
        images: (N, 48, 48) uint8.
        image_size, resize: as `view_batch` takes them.
        batch_size: images per forward pass, one view of each.
        on_batch: called with the number of images after each batch.
        tta: which views of each image; the default is what validation in training sees.

    Returns:
        (N, C) float32 logits on the device of `images`.
    """
    if not len(images):
        return torch.empty(0, NUM_EMOTIONS, device=images.device)
    logits = []
    distinct = distinct_views(tta, image_size, resize)
    with _eval_mode(model):
        for batch in torch.split(images, batch_size):
            seen = [model(view_batch(batch, image_size, resize, view)) for view in distinct]
            logits.append(torch.stack(seen).float().mean(dim=0))  # (V, B, C) to (B, C)
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


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep GPUs from rounding convolutions' inputs to TF32, which PyTorch lets them by default.

    TF32 has ten bits of mantissa: logits then differ in the third decimal between batch sizes and
    machines, and a registered model could not be compared with the logits on record. On a CPU
    nothing changes.
    """
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    matmul = torch.backends.cuda.matmul
    before = convolution.fp32_precision, matmul.fp32_precision
    convolution.fp32_precision = matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision, matmul.fp32_precision = before

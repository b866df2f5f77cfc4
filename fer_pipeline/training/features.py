"""What the frozen part of a network makes of each image, computed once for many epochs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from fer_pipeline.models.backbones import head_of
from fer_pipeline.models.transforms import centre_batch
from fer_pipeline.training.augment import augment_batch
from fer_pipeline.training.job import draws_of_epoch
from fer_pipeline.training.precision import Precision, autocast

if TYPE_CHECKING:
    from fer_pipeline.training.job import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedFeatures:
    """The head's inputs, D values each.

    Attributes:
        train: (K, N, D), of K augmented views of each training image.
        val: (M, D), of the val images as validation sees them.
    """

    train: Tensor
    val: Tensor


def allocate_features(job: Job, views: int) -> Tensor:
    """An empty (K, N, D), before any of the passes that fill it.

    Raises:
        torch.OutOfMemoryError: a GPU's memory does not suffice for so many views.
        RuntimeError: so it is on a CPU.
    """
    width = cast(int, head_of(job.model, job.backbone).in_features)
    return torch.empty(views, len(job.train), width, device=job.fabric.device)


def cache_features(
    job: Job, train: Tensor, batch_size: int, precision: Precision
) -> CachedFeatures:
    """Send K views of train, and val, through the network, which is left in eval mode.

    Args:
        job: whose network and images.
        train: (K, N, D), to be filled.
        batch_size: images per forward pass.
        precision: of the network.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for so many images at once.
    """
    views = len(train)
    model = job.model.eval()
    head = head_of(model, job.backbone)
    size, resize, augment = job.params.image_size, job.params.eval_resize, job.training.augment
    # Anew from the first, where memory did not suffice the first time.
    draws = draws_of_epoch(job.seed, 0, job.fabric.device)
    job.observer.caching_started(views * len(job.train) + len(job.val))
    log.info("%s: features of %d views of each image", job.backbone, views)

    def features_of(images: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        with autocast(job.fabric.device, precision):
            return compute_features(
                model, head, images, batch_size, prepare, job.observer.batch_done
            )

    for view in train:
        view[:] = features_of(
            job.train.pixels, lambda batch: augment_batch(batch, size, augment, draws.pictures)
        )
    val = features_of(job.val.pixels, lambda batch: centre_batch(batch, size, resize))
    return CachedFeatures(train, val)


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

"""What the frozen part of a network makes of each image, computed once for many epochs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fer_pipeline.models.backbones import head_of
from fer_pipeline.models.transforms import centre_batch
from fer_pipeline.training.augment import augment_batch, draw_augmentation
from fer_pipeline.training.job import Job, draws_of_epoch
from fer_pipeline.training.memory import halve_until_it_fits, unify_out_of_memory
from fer_pipeline.training.precision import Precision, autocast

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


def cache_features(job: Job, views: int, batch_size: int, precision: Precision) -> CachedFeatures:
    """Send K views of train, and val, through the network, which is left in eval mode.

    Memory for all of them is taken first, so that it does not run out after hours.

    Args:
        job: whose network and images.
        views: K.
        batch_size: images per forward pass; fewer where memory does not suffice.
        precision: the one that the network runs in.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for so many views, or for two images.
    """
    width = cast(int, head_of(job.model, job.backbone).in_features)
    with unify_out_of_memory():
        train = torch.empty(views, len(job.train), width, device=job.fabric.device)
    features, _ = halve_until_it_fits(
        lambda images: _fill(job, train, images, precision), batch_size
    )
    return features


@torch.no_grad()
def _fill(job: Job, train: Tensor, batch_size: int, precision: Precision) -> CachedFeatures:
    model, device = job.model.eval(), job.fabric.device
    size, resize, augment = job.params.image_size, job.params.eval_resize, job.training.augment
    draws = draws_of_epoch(job.seed, 0, device)  # again from the first, where memory ran out
    job.observer.caching_started(len(train) * len(job.train) + len(job.val))
    log.info("%s: features of %d views of each image", job.backbone, len(train))

    def features_of(images: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        kept: list[Tensor] = []
        head = head_of(model, job.backbone)
        with (
            autocast(device, precision),
            head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].float())),
        ):
            for batch in torch.split(images, batch_size):
                model(prepare(batch))
                job.observer.batch_done(len(batch))
        return torch.cat(kept)  # (N, D)

    def augmented(batch: Tensor) -> Tensor:
        return augment_batch(batch, size, augment, draw_augmentation(len(batch), draws.pictures))

    for view in train:
        view[:] = features_of(job.train.pixels, augmented)
    val = features_of(job.val.pixels, lambda batch: centre_batch(batch, size, resize))
    return CachedFeatures(train, val)

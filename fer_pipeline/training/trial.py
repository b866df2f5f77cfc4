"""Steps that train nothing, to find out beforehand what a device can do."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from fer_pipeline.training.augment import augment_batch
from fer_pipeline.training.job import Job, draws_of_epoch
from fer_pipeline.training.losses import Targets, classification_loss
from fer_pipeline.training.memory import NoRoomError, halve_until_it_fits, one_kind_of_error
from fer_pipeline.training.precision import Precision, autocast

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STANDING_COPIES = 4
"""Of the moving weights, that a training may hold and a trial does not: Adam's two moments, the
average, and the buckets in which devices exchange gradients."""


def trial_loss(job: Job, images: int) -> Callable[[nn.Module, int], Tensor]:
    """One forward pass through a network, of so many of the first images of train."""
    batch = augment_batch(
        job.train.pixels[:images],
        job.params.image_size,
        job.training.augment,
        draws_of_epoch(job.seed, 0, job.fabric.device).pictures,
    )  # (B, 3, S, S)
    labels = job.train.labels[:images]

    def loss(model: nn.Module, count: int) -> Tensor:
        targets = Targets(labels[:count])
        return classification_loss(model(batch[:count]), targets, 0.0, job.params.auxiliary_weight)

    return loss


def agree_on_micro_batch(job: Job, precision: Precision, images: int) -> int:
    """How many images at once fit on each of the devices that share a batch.

    Found before they train together: one that runs out of memory in the middle of a step would
    leave the others waiting for its gradients.

    Args:
        job: whose network is as the phase wants it, and does not yet exchange anything.
        precision: that the network runs in.
        images: of one device's share.

    Raises:
        NoRoomError: on one of them not even the smallest number fits. All raise it.
    """
    try:
        with one_kind_of_error():
            fitting = _fitting(job, precision, images)
    except torch.OutOfMemoryError:
        fitting = 0
    if job.fabric.device.type == "cuda":
        torch.cuda.empty_cache()  # what exchanges gradients takes its memory elsewhere
    return least_of_all(job.fabric, fitting)


def least_of_all(fabric: Fabric, fitting: int) -> int:
    """The smallest of the numbers that the devices found to fit.

    Raises:
        NoRoomError: it is 0. All raise it.
    """
    least = torch.tensor(fitting, device=fabric.device)
    found = int(cast(Tensor, fabric.all_reduce(least, reduce_op="min")))
    if not found:
        raise NoRoomError("it does not fit into the memory of every device")
    return found


def _fitting(job: Job, precision: Precision, images: int) -> int:
    loss = trial_loss(job, images * job.fabric.world_size)  # each prepares the whole batch
    trial = deepcopy(job.model)
    moving = sum(weight.numel() for weight in trial.parameters() if weight.requires_grad)

    def step(count: int) -> None:
        trial.zero_grad(set_to_none=True)
        standing = torch.empty(STANDING_COPIES, moving, device=job.fabric.device)
        with autocast(job.fabric.device, precision):
            value = loss(trial, count)
        value.backward()  # type: ignore[no-untyped-call]
        del standing

    _, fitting = halve_until_it_fits(step, images)
    return fitting

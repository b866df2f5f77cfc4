"""How many images go through a network at once, where memory does not suffice for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from fer_pipeline.errors import SharedTrainingError, TrainingError
from fer_pipeline.training.augment import augment_batch, draw_augmentation
from fer_pipeline.training.job import Job, draws_of_epoch
from fer_pipeline.training.losses import Targets, classification_loss
from fer_pipeline.training.precision import Precision, autocast

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Result = TypeVar("Result")

SMALLEST_MICRO_BATCH = 2
"""Images per forward pass, at least: batch norm needs two."""

OUT_OF_MEMORY_MESSAGES = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "can't allocate memory",
)
"""Texts of errors that mean out of memory, but do not come from torch's allocator of GPU memory."""


RESIDENT_COPIES = 5
"""Copies of the trainable weights that a training keeps in memory and a trial step does not: Adam's
two moments, the average, the best epoch's, and the buckets in which devices exchange gradients."""


class NoMemoryError(torch.OutOfMemoryError):
    """Memory does not suffice on every device that shares a batch, and all devices know it."""


def halve_until_it_fits(work: Callable[[int], Result], images: int) -> tuple[Result, int]:
    """Do the work with so many images at once; where memory does not suffice, again with half.

    Returns:
        What the work gave, and the number of images at once with which it did.

    Raises:
        torch.OutOfMemoryError: it does not suffice for `SMALLEST_MICRO_BATCH` images either.
    """
    while True:
        try:
            with unify_out_of_memory():
                return work(images), images
        except torch.OutOfMemoryError:
            if images <= SMALLEST_MICRO_BATCH:
                raise
        images = max(SMALLEST_MICRO_BATCH, images // 2)
        torch.cuda.empty_cache()  # not sooner: the error held what the work had made


@contextmanager
def unify_out_of_memory() -> Iterator[None]:
    """Raise torch's own error of memory that does not suffice, whatever library found that out.

    Raises:
        torch.OutOfMemoryError: memory did not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if any(text in str(error) for text in OUT_OF_MEMORY_MESSAGES):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


@contextmanager
def explain_out_of_memory(backbone: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error into one line of advice, where smaller parts are no help.

    Raises:
        TrainingError: memory did not suffice; what it says ends with the advice.
        SharedTrainingError: the same, and all devices know it.
    """
    try:
        with unify_out_of_memory():
            yield
    except torch.OutOfMemoryError as error:
        kind = SharedTrainingError if isinstance(error, NoMemoryError) else TrainingError
        raise kind(f"{backbone}: out of memory: {advice}") from error


def micro_batches(images: int, at_once: int) -> list[slice]:
    """Parts of a batch, of at most so many images each, or one more: none is of a single image."""
    parts = -(-images // at_once)
    parts = max(1, min(parts, images // SMALLEST_MICRO_BATCH))
    ends = [images * done // parts for done in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def trial_loss(job: Job, images: int) -> Callable[[nn.Module, int], Tensor]:
    """One forward pass through a network, of so many of the first images of train."""
    pixels = job.train.pixels[:images]
    batch = augment_batch(
        pixels,
        job.params.image_size,
        job.training.augment,
        draw_augmentation(len(pixels), draws_of_epoch(job.seed, 0, job.fabric.device).pictures),
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
        precision: the one that the network runs in.
        images: size of one device's share of a batch.

    Raises:
        NoMemoryError: on one of them not even the smallest number fits. All raise it.
    """
    fitting = 0
    with suppress(torch.OutOfMemoryError), unify_out_of_memory():
        fitting = _fitting(job, precision, images)
    torch.cuda.empty_cache()  # what exchanges gradients takes its memory elsewhere
    return least_of_all(job.fabric, fitting)


def least_of_all(fabric: Fabric, fitting: int) -> int:
    """The smallest of the numbers that the devices found to fit.

    Raises:
        NoMemoryError: it is 0. All raise it.
    """
    least = torch.tensor(fitting, device=fabric.device)
    found = int(cast(Tensor, fabric.all_reduce(least, reduce_op="min")))
    if not found:
        raise NoMemoryError("it does not fit into the memory of every device")
    return found


def _fitting(job: Job, precision: Precision, images: int) -> int:
    loss = trial_loss(job, images * job.fabric.world_size)  # each prepares the whole batch
    trial = deepcopy(job.model)
    trainable = sum(weight.numel() for weight in trial.parameters() if weight.requires_grad)

    def step(count: int) -> None:
        trial.zero_grad(set_to_none=True)
        resident = torch.empty(RESIDENT_COPIES, trainable, device=job.fabric.device)
        with autocast(job.fabric.device, precision):
            value = loss(trial, count)
        value.backward()  # type: ignore[no-untyped-call]
        del resident

    _, fitting = halve_until_it_fits(step, images)
    return fitting

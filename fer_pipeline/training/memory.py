"""How many images go through a network at once, where memory does not suffice for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

from fer_pipeline.errors import SharedTrainingError, TrainingError

Result = TypeVar("Result")

SMALLEST_MICRO_BATCH = 2
"""Batch norm needs two images."""

SAID_OTHERWISE = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "can't allocate memory",
)
"""What is said where it was not torch's own allocator of GPU memory that had none left."""


class NoRoomError(torch.OutOfMemoryError):
    """The devices that share a batch have found together that it fits on none, or not on all."""


def halve_until_it_fits(work: Callable[[int], Result], images: int) -> tuple[Result, int]:
    """Do the work with so many images at once; where memory does not suffice, again with half.

    Returns:
        What the work gave, and the number of images at once with which it did.

    Raises:
        torch.OutOfMemoryError: it does not suffice for `SMALLEST_MICRO_BATCH` images either.
    """
    while True:
        try:
            with one_kind_of_error():
                return work(images), images
        except torch.OutOfMemoryError:
            if images <= SMALLEST_MICRO_BATCH:
                raise
        images = max(SMALLEST_MICRO_BATCH, images // 2)
        torch.cuda.empty_cache()  # not sooner: the error held what the work had made


def says_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch is about memory that does not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in SAID_OTHERWISE)


@contextmanager
def one_kind_of_error() -> Iterator[None]:
    """Whatever word torch has for it, memory that does not suffice is one kind of error.

    Raises:
        torch.OutOfMemoryError: it did not.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not says_out_of_memory(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


@contextmanager
def explain_out_of_memory(backbone: str, advice: str) -> Iterator[None]:
    """Where halving ends, or is no help.

    Raises:
        TrainingError: memory did not suffice; what it says ends with the advice.
        SharedTrainingError: so all devices have found together.
    """
    try:
        with one_kind_of_error():
            yield
    except torch.OutOfMemoryError as error:
        kind = SharedTrainingError if isinstance(error, NoRoomError) else TrainingError
        raise kind(f"{backbone}: out of memory: {advice}") from error


def micro_batches(images: int, at_once: int) -> list[slice]:
    """Parts of a batch, of at most so many images each, or one more: none is of a single image."""
    parts = -(-images // at_once)
    parts = max(1, min(parts, images // SMALLEST_MICRO_BATCH))
    ends = [images * done // parts for done in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]

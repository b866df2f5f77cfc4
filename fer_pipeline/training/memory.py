"""How many images go through a network at once, where memory does not suffice for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

from fer_pipeline.errors import TrainingError, one_line

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
def explain_device_errors(backbone: str, advice: str) -> Iterator[None]:
    """Turn what ends a training on its device into one line.

    Raises:
        TrainingError: memory did not suffice, where smaller parts are no help, and what it says
            ends with the advice; or the GPU failed.
    """
    try:
        with unify_out_of_memory():
            yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"{backbone}: out of memory: {advice}") from error
    except torch.AcceleratorError as error:
        raise TrainingError(
            f"{backbone}: the GPU failed ({one_line(error)}): look at it with nvidia-smi, then run "
            f"it again: it goes on from its last checkpoint"
        ) from error


def micro_batches(images: int, at_once: int) -> list[slice]:
    """Parts of a batch, of at most so many images each, or one more: none is of a single image."""
    parts = -(-images // at_once)
    parts = max(1, min(parts, images // SMALLEST_MICRO_BATCH))
    ends = [images * done // parts for done in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]

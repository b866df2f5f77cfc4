"""How many images go through a network at once, where memory does not suffice for all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch

Result = TypeVar("Result")

SMALLEST_MICRO_BATCH = 2
"""Batch norm needs two images."""


def halve_until_it_fits(work: Callable[[int], Result], images: int) -> tuple[Result, int]:
    """Do the work with so many images at once; where memory does not suffice, again with half.

    Returns:
        What the work gave, and the number of images at once with which it did.

    Raises:
        torch.OutOfMemoryError: it does not suffice for `SMALLEST_MICRO_BATCH` images either.
    """
    while True:
        try:
            return work(images), images
        except torch.OutOfMemoryError:
            if images < 2 * SMALLEST_MICRO_BATCH:
                raise
        images //= 2
        torch.cuda.empty_cache()  # not sooner: the error held what the work had made


def micro_batches(images: int, at_once: int) -> list[slice]:
    """Parts of a batch, of at most so many images each, none of a single image."""
    parts = -(-images // at_once)
    parts = max(1, min(parts, images // SMALLEST_MICRO_BATCH))
    ends = [images * done // parts for done in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]

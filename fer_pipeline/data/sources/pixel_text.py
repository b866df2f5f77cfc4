"""Images as text, 2,304 numbers with spaces between them, into pixels: many rows at once.

The csv editions hold 83 million numbers. Instead of cutting the text into words, every byte's
digit is added to its neighbours' with weights 1, 10 and 100, and the sums at the ends of the
numbers are kept: a few passes over plain arrays, which leave Python's lock to other threads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fer_pipeline.data.faces import SIDE, UInt8Array

PIXELS = SIDE * SIDE

_ROWS = 32
"""Rows per pass, so that the arrays of a pass stay in the processor's cache."""

_SPACE = np.uint8(32)
_ZERO = np.uint8(48)


def parse_pixels(texts: pa.StringArray) -> UInt8Array | None:
    """Parse rows that are written as the known editions write them.

    Args:
        texts: N rows.

    Returns:
        (N, 48, 48) uint8, or None where a row is anything but 2,304 numbers from 0 to 255 of at
        most three digits, with one space between them.
    """
    if texts.null_count:
        return None
    ended = pc.binary_join_element_wise(texts, pa.scalar(""), " ")  # a space after each number
    offsets = np.frombuffer(ended.buffers()[1], np.int32)[ended.offset :][: len(ended) + 1]
    content = np.frombuffer(ended.buffers()[2] or b"", np.uint8)
    pixels = np.empty((len(ended), PIXELS), np.uint8)
    for start in range(0, len(ended), _ROWS):
        rows = offsets[start : start + _ROWS + 1]
        numbers = _parse(content[rows[0] : rows[-1]], rows[1:] - rows[0] - 1)
        if numbers is None:
            return None
        pixels[start : start + _ROWS] = numbers
    return pixels.reshape(-1, SIDE, SIDE)


def _parse(text: UInt8Array, row_ends: npt.NDArray[np.int32]) -> UInt8Array | None:
    """(R, 2304) numbers of R rows, each of which ends with the space at its place in `row_ends`."""
    inside = (text != _SPACE).view(np.uint8)  # 1 inside a number
    digits = (text - _ZERO) * inside  # what is no digit wraps round to more than 9
    four_long = inside[3:] & inside[2:-1] & inside[1:-2] & inside[:-3]
    if digits.max() > 9 or four_long.any():
        return None
    ends = np.flatnonzero(inside == 0)
    if len(ends) != len(row_ends) * PIXELS or (ends[PIXELS - 1 :: PIXELS] != row_ends).any():
        return None
    if not inside[0] or (inside[ends[1:] - 1] == 0).any():
        return None  # an empty number, between two spaces
    hundreds = digits[:-2] * inside[1:-1] * inside[2:]
    if hundreds.max() > 2:
        return None
    hundreds *= np.uint8(100)
    sums = digits.copy()
    sums[1:] += np.uint8(10) * digits[:-1]
    sums[2:] += hundreds
    if (sums[2:] < hundreds).any():
        return None  # beyond 255 it has wrapped round, to less than its hundreds
    numbers: UInt8Array = sums[ends - 1]
    return numbers.reshape(-1, PIXELS)

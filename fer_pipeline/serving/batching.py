"""Requests that wait at the same time are computed together, by one thread and in small batches.

Networks take about three times as long for sixteen small images as for one, and threads that
compute side by side only take the cores from each other. Every request that waits has an equal
share of the next batch, so that one image does not wait behind a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from fer_pipeline.arrays import Float32Array, UInt8Array
from fer_pipeline.serving.predictor import BATCH_SIZE


@dataclass(eq=False)
class _Request:
    """Images that somebody waits for, and what is known of the first of them."""

    images: UInt8Array
    answer: Future[Float32Array] = field(default_factory=Future)
    parts: list[Float32Array] = field(default_factory=list)
    begun: int = 0

    @property
    def left(self) -> int:
        return len(self.images) - self.begun

    def take(self, count: int) -> UInt8Array:
        self.begun += count
        return self.images[self.begun - count : self.begun]


class Batcher:
    """Calls from many threads, computed by one.

    Args:
        compute: called with at most `most` images at a time; gives a row for each.
        most: images in a batch.
    """

    def __init__(
        self, compute: Callable[[UInt8Array], Float32Array], most: int = BATCH_SIZE
    ) -> None:
        self._compute_rows, self._most = compute, most
        self._waiting: list[_Request] = []
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, "compute")

    def compute(self, images: UInt8Array, timeout_s: float | None = None) -> Float32Array:
        """The rows of (N, 48, 48) images, N at least 1; waits for its turn.

        Raises:
            TimeoutError: it took longer than that; what was not begun is not computed.
            Exception: what `compute` raised for a batch with some of these images.
        """
        request = _Request(images)
        with self._lock:
            self._waiting.append(request)
        self._thread.submit(self._answer_waiting)
        try:
            return request.answer.result(timeout_s)
        finally:
            with self._lock:
                self._waiting = [one for one in self._waiting if one is not request]

    def _answer_waiting(self) -> None:
        while batch := self._take_batch():
            self._answer(batch)

    def _take_batch(self) -> list[tuple[_Request, UInt8Array]]:
        """The next images, with whose they are."""
        with self._lock:
            waiting = [one for one in self._waiting if one.left][: self._most]
            counts = share([one.left for one in waiting], self._most)
            return [(one, one.take(n)) for one, n in zip(waiting, counts, strict=True) if n]

    def _answer(self, batch: list[tuple[_Request, UInt8Array]]) -> None:
        try:
            found = self._compute_rows(np.concatenate([images for _, images in batch]))
        except Exception as error:  # raised again by those who asked
            for one, _ in batch:
                one.begun = len(one.images)
                one.answer.set_exception(error)
            return
        ends = np.cumsum([len(images) for _, images in batch])
        for (one, _), rows in zip(batch, np.split(found, ends[:-1]), strict=True):
            one.parts.append(rows)
            if not one.left:
                one.answer.set_result(np.concatenate(one.parts))


def share(wanted: Sequence[int], room: int) -> list[int]:
    """Divide a batch: nobody gets more than is wanted, or than an equal share of what is left.

    Examples:
        >>> share([1000, 1, 3], 32)
        [28, 1, 3]
        >>> share([1000, 1000, 1], 32)
        [15, 16, 1]
    """
    given = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    for place, n in enumerate(order):
        given[n] = min(wanted[n], room // (len(order) - place))
        room -= given[n]
    return given

"""Calls from many threads on one batcher, whose network is a function that tests can hold up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, get_ident
from time import sleep

import numpy as np
import pytest
from processes import WITHIN_S

from fer_pipeline.arrays import Float32Array, UInt8Array
from fer_pipeline.serving.batching import Batcher, share


class Network:
    """Its answers are the images' first pixels; it notes each batch, and waits for a permission."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.go = Event()

    def compute(self, images: UInt8Array) -> Float32Array:
        self.batches.append(images[:, 0, 0].tolist())
        self.threads.add(get_ident())
        assert self.go.wait(WITHIN_S)
        if 255 in images[:, 0, 0]:
            raise MemoryError("too large")
        first: Float32Array = images[:, 0, 0].astype(np.float32)
        return first


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ask(network: Network) -> Iterator[Callable[..., Future[Float32Array]]]:
    """Ask for images with these first pixels, in a thread of its own; it waits when this ends."""
    batcher = Batcher(network.compute, most=8)

    def ask(*firsts: int) -> Future[Float32Array]:
        images = np.zeros((len(firsts), 48, 48), np.uint8)
        images[:, 0, 0] = firsts
        entered = len(batcher._waiting) + 1
        asked = threads.submit(batcher.compute, images)
        while not asked.done() and (len(batcher._waiting) < entered or not network.batches):
            sleep(0.001)
        return asked

    with ThreadPoolExecutor(16) as threads:
        yield ask
        network.go.set()


def test_what_waits_is_computed_together_by_one_thread_and_each_gets_its_own(
    network: Network, ask: Callable[..., Future[Float32Array]]
) -> None:
    asked = [ask(1), ask(2, 3), ask(4), ask(5, 6, 7)]
    network.go.set()
    answers = [one.result(60) for one in asked]
    assert network.batches == [[1], [2, 3, 4, 5, 6, 7]]
    assert [one.tolist() for one in answers] == [[1], [2, 3], [4], [5, 6, 7]]
    assert len(network.threads) == 1


def test_one_image_does_not_wait_behind_many(
    network: Network, ask: Callable[..., Future[Float32Array]]
) -> None:
    many, one = ask(*range(20)), ask(100)
    network.go.set()
    assert one.result(60)[0] == 100
    assert many.result(60).tolist() == list(range(20))
    # What came first has the first batch to itself, and then what the small request leaves.
    assert network.batches == [list(range(8)), [*range(8, 15), 100], list(range(15, 20))]


def test_who_came_first_is_computed_first_where_not_all_find_room(
    network: Network, ask: Callable[..., Future[Float32Array]]
) -> None:
    asked = [ask(n) for n in range(10)]
    network.go.set()
    assert [one.result(60)[0] for one in asked] == list(range(10))
    assert network.batches == [[0], list(range(1, 9)), [9]]


def test_an_error_reaches_those_in_its_batch_and_nobody_else(
    network: Network, ask: Callable[..., Future[Float32Array]]
) -> None:
    first, bad, beside = ask(1), ask(255), ask(2)
    network.go.set()
    assert first.result(60)[0] == 1
    for one in (bad, beside):
        with pytest.raises(MemoryError, match="too large"):
            one.result(60)
    assert ask(3).result(60)[0] == 3


def test_what_nobody_waits_for_any_more_is_not_computed(network: Network) -> None:
    batcher = Batcher(network.compute, most=2)
    with pytest.raises(TimeoutError):
        batcher.compute(np.zeros((5, 48, 48), np.uint8), timeout_s=0.01)
    network.go.set()
    batcher.compute(np.ones((1, 48, 48), np.uint8))
    assert network.batches == [[0, 0], [1]]


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([], 32, []),
        ([3], 32, [3]),
        ([1000, 1, 3], 32, [28, 1, 3]),
        ([1000, 1000, 1], 32, [15, 16, 1]),
    ],
)
def test_a_batch_is_shared_out_equally(wanted: list[int], room: int, given: list[int]) -> None:
    assert share(wanted, room) == given

"""How many images at once, where memory does not suffice for all."""

from __future__ import annotations

import pytest
import torch

from fer_pipeline.errors import TrainingError
from fer_pipeline.training.memory import (
    OUT_OF_MEMORY_MESSAGES,
    explain_device_errors,
    halve_until_it_fits,
    micro_batches,
)

MORE_THAN_THERE_IS = 2**60


def needs(fitting: int, tried: list[int], images: int) -> str:
    tried.append(images)
    if images > fitting:
        raise torch.OutOfMemoryError
    return "done"


@pytest.mark.parametrize(
    ("images", "fitting", "sizes"),
    [(8, 8, [8]), (96, 2, [96, 48, 24, 12, 6, 3, 2]), (7, 2, [7, 3, 2]), (2, 2, [2]), (1, 1, [1])],
)
def test_it_is_halved_down_to_two(images: int, fitting: int, sizes: list[int]) -> None:
    tried: list[int] = []
    assert halve_until_it_fits(lambda n: needs(fitting, tried, n), images) == ("done", sizes[-1])
    assert tried == sizes


@pytest.mark.parametrize("images", [96, 3, 2, 1])
def test_where_two_do_not_fit_it_ends(images: int) -> None:
    tried: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        halve_until_it_fits(lambda n: needs(0, tried, n), images)
    assert min(tried) == min(images, 2)


def test_memory_that_torch_asks_the_system_for_counts_as_well() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8)
    assert not isinstance(refused.value, torch.OutOfMemoryError)
    with pytest.raises(TrainingError) as ended, explain_device_errors("resnet50", "do less"):
        halve_until_it_fits(lambda n: torch.empty(n, MORE_THAN_THERE_IS, dtype=torch.uint8), 4)
    assert str(ended.value) == "resnet50: out of memory: do less"


@pytest.mark.parametrize("said", OUT_OF_MEMORY_MESSAGES)
def test_what_others_say_counts_as_well(said: str) -> None:
    tried: list[int] = []

    def work(images: int) -> None:
        tried.append(images)
        if images > 2:
            raise RuntimeError(f"{said} (while calling something)")

    halve_until_it_fits(work, 8)
    assert tried == [8, 4, 2]


def test_another_error_is_not_taken_for_it() -> None:
    tried: list[int] = []

    def work(images: int) -> None:
        tried.append(images)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"), explain_device_errors("resnet50", "do less"):
        halve_until_it_fits(work, 8)
    assert tried == [8]


@pytest.mark.parametrize("images", range(2, 20))
@pytest.mark.parametrize("at_once", [2, 3, 5, 100])
def test_parts_are_of_two_or_more_and_hardly_larger_than_wanted(images: int, at_once: int) -> None:
    parts = micro_batches(images, at_once)
    sizes = [part.stop - part.start for part in parts]
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == images
    assert min(sizes) >= 2
    assert max(sizes) <= at_once + (at_once == 2)

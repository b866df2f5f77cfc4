"""What an epoch draws depends on the seed and on its number, and on nothing else."""

from __future__ import annotations

import numpy as np
import torch

from fer_pipeline.data.faces import Split
from fer_pipeline.models.catalog import CATALOG
from fer_pipeline.training.job import Draws, draws_of_epoch, seed_of, to_device

CPU = torch.device("cpu")

SEED_OF_RESNET50 = 233129345
"""Where the experiment's is 0."""


def numbers(draws: Draws) -> list[float]:
    """One of each generator, torch's own first."""
    return [
        float(torch.rand(1, dtype=torch.float64)),
        float(torch.rand(1, dtype=torch.float64, generator=draws.order)),
        float(torch.rand(1, dtype=torch.float64, generator=draws.pictures)),
        draws.mixing.random(),
    ]


def test_an_epoch_draws_the_same_whatever_was_drawn_before() -> None:
    first = numbers(draws_of_epoch(5, 3, CPU))
    torch.manual_seed(99)
    numbers(draws_of_epoch(5, 2, CPU))
    assert numbers(draws_of_epoch(5, 3, CPU)) == first


def test_seeds_epochs_and_kinds_all_draw_differently() -> None:
    drawn = [
        number
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1, 2)
        for number in numbers(draws_of_epoch(seed, epoch, CPU))
    ]
    assert len(set(drawn)) == len(drawn) == 3 * 3 * 4


def test_devices_that_share_a_batch_draw_it_alike_and_their_dropout_apart() -> None:
    one, other = (numbers(draws_of_epoch(5, 3, CPU, rank)) for rank in (0, 1))
    assert one[1:] == other[1:]
    assert one[0] != other[0]
    assert one == numbers(draws_of_epoch(5, 3, CPU))


def test_each_backbone_and_each_seed_draw_differently() -> None:
    seeds = [seed_of(backbone, seed) for backbone in CATALOG for seed in (0, 1, 2**32 - 1)]
    drawn = [number for seed in seeds for number in numbers(draws_of_epoch(seed, 1, CPU))]
    assert len(set(drawn)) == len(drawn) == 3 * 3 * 4
    assert seeds[0] == SEED_OF_RESNET50  # in every process


def test_images_are_held_as_bytes(splits: dict[str, Split]) -> None:
    held = to_device(splits["train"], CPU)
    assert held.pixels.dtype == torch.uint8
    assert held.labels.dtype == torch.int64
    assert len(held) == 28
    assert np.array_equal(held.pixels.numpy(), splits["train"].images)

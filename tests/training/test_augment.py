"""Crops and flips measured on the pixels that come out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fer_pipeline.models.inputs import centre_batch
from fer_pipeline.params import AugmentParams
from fer_pipeline.training.augment import augment_batch

COUNT, SIZE = 200, 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ranges(
    scale: tuple[float, float] = (1.0, 1.0),
    ratio: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.0,
) -> AugmentParams:
    return AugmentParams(crop_scale=scale, crop_ratio=ratio, flip=flip)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (COUNT, 48, 48), dtype=torch.uint8, generator=generator(9))


def crop_sizes(params: AugmentParams) -> tuple[Tensor, Tensor]:
    """(COUNT,) widths and heights of the crops, as fractions, read off two grey ramps.

    Between two columns of the crop, a ramp rises with the width of what was cropped.
    """
    ramp = (5 * torch.arange(48)).to(torch.uint8)
    across, down = ramp.expand(COUNT, 48, 48), ramp[:, None].expand(COUNT, 48, 48)
    quarter, rise = SIZE // 4, 5 * 48 / 127.5 / 2  # of half the image
    by_column = augment_batch(across, SIZE, params, generator())[:, 0, SIZE // 2]
    by_row = augment_batch(down, SIZE, params, generator())[:, 0, :, SIZE // 2]
    return tuple(
        (line[:, 3 * quarter] - line[:, quarter]).abs() / rise for line in (by_column, by_row)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("size", [40, 48, 96])
def test_the_full_crop_without_a_flip_is_what_validation_sees(size: int, images: Tensor) -> None:
    found = augment_batch(images, size, ranges(), generator())
    torch.testing.assert_close(found, centre_batch(images, size, size), atol=1e-5, rtol=0)


def test_a_sure_flip_is_the_exact_mirror(images: Tensor) -> None:
    found = augment_batch(images, SIZE, ranges(flip=1.0), generator())
    unflipped = augment_batch(images, SIZE, ranges(flip=0.0), generator())
    torch.testing.assert_close(found, unflipped.flip(3), atol=2e-5, rtol=0)
    assert not torch.allclose(found, unflipped)


def test_a_flip_mirrors_the_crop_and_does_not_move_it(images: Tensor) -> None:
    scale, ratio = (0.3, 0.9), (0.8, 1.25)
    found = augment_batch(images, SIZE, ranges(scale, ratio, flip=1.0), generator())
    unflipped = augment_batch(images, SIZE, ranges(scale, ratio, flip=0.0), generator())
    torch.testing.assert_close(found, unflipped.flip(3), atol=2e-5, rtol=0)


def test_the_share_of_flips_is_the_probability(images: Tensor) -> None:
    found = augment_batch(images, SIZE, ranges(flip=0.3), generator())
    unflipped = centre_batch(images, SIZE, SIZE)
    straight = (found - unflipped).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (found - unflipped.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (straight ^ mirrored).all()
    # Five standard deviations of a binomial share.
    assert abs(mirrored.float().mean() - 0.3) < 5 * (0.3 * 0.7 / COUNT) ** 0.5


def test_areas_and_ratios_fill_their_ranges_and_stay_in_them() -> None:
    width, height = crop_sizes(ranges((0.2, 0.6), (0.8, 1.25)))
    area, ratio = width * height, width / height
    assert 0.2 - 1e-3 < area.min() < 0.25
    assert 0.55 < area.max() < 0.6 + 1e-3
    assert 0.8 - 1e-3 < ratio.min() < 0.85
    assert 1.18 < ratio.max() < 1.25 + 1e-3
    assert abs(area.mean() - 0.4) < 0.05  # uniform in area
    assert abs(ratio.log().mean()) < 0.05  # uniform in the logarithm of the ratio


def test_a_crop_wider_than_the_image_is_cut_to_it() -> None:
    width, height = crop_sizes(ranges((1.0, 1.0), (4.0, 4.0)))
    # The ramp ends half a pixel before the border, so the whole width reads as a little less.
    torch.testing.assert_close(width, torch.ones(COUNT), atol=1e-3, rtol=0)
    torch.testing.assert_close(height, torch.full((COUNT,), 0.5), atol=1e-3, rtol=0)


def test_crops_reach_every_border_and_none_beyond() -> None:
    """The position of a quarter-size crop, read off a ramp at its middle."""
    ramp = (5 * torch.arange(48)).to(torch.uint8)
    columns = ramp.expand(COUNT, 48, 48)
    crops = augment_batch(columns, SIZE, ranges((0.25, 0.25)), generator())
    pixels = (crops[:, 0, 0] + 1) * 127.5 / 5  # (COUNT, SIZE) columns of the image
    middle = (pixels[:, SIZE // 2 - 1] + pixels[:, SIZE // 2]) / 2
    assert 11.5 - 1e-3 <= middle.min() < 13
    assert 34 < middle.max() <= 35.5 + 1e-3


def test_every_image_is_drawn_for_itself(images: Tensor) -> None:
    same = images[:1].expand(COUNT, 48, 48)
    found = augment_batch(same, SIZE, ranges((0.3, 0.9), (0.8, 1.25), 0.5), generator())
    assert len(torch.unique(found, dim=0)) == COUNT


def test_the_same_seed_gives_the_same_batch_and_another_does_not(images: Tensor) -> None:
    params = ranges((0.3, 0.9), (0.8, 1.25), 0.5)
    first = augment_batch(images, SIZE, params, generator(1))
    torch.manual_seed(123)  # the global generator has no part in it
    assert torch.equal(augment_batch(images, SIZE, params, generator(1)), first)
    assert not torch.equal(augment_batch(images, SIZE, params, generator(2)), first)


def test_a_batch_moves_the_generator_on(images: Tensor) -> None:
    params, drawing = ranges((0.3, 0.9)), generator(1)
    first = augment_batch(images, SIZE, params, drawing)
    assert not torch.equal(augment_batch(images, SIZE, params, drawing), first)


def test_values_stay_between_minus_one_and_one_and_channels_last(images: Tensor) -> None:
    found = augment_batch(images, SIZE, ranges((0.1, 1.0), (0.5, 2.0), 0.5), generator())
    assert found.shape == (COUNT, 3, SIZE, SIZE)
    assert found.min() >= -1 - 1e-6
    assert found.max() <= 1 + 1e-6
    assert torch.equal(found[:, 0], found[:, 2])
    assert found.is_contiguous(memory_format=torch.channels_last)

"""Every random change measured on the pixels that come out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fer_pipeline.models.transforms import centre_batch
from fer_pipeline.params.schema import AugmentParams
from fer_pipeline.training.augment import augment_batch, draw_augmentation

COUNT, SIZE = 200, 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augment(images: Tensor, size: int, params: AugmentParams, draws: torch.Generator) -> Tensor:
    return augment_batch(images, size, params, draw_augmentation(len(images), draws))


def ranges(
    scale: tuple[float, float] = (1.0, 1.0),
    ratio: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.0,
    **others: float,
) -> AugmentParams:
    nothing = {"rotation": 0.0, "translation": 0.0, "brightness": 0.0, "erasing": 0.0}
    return AugmentParams(crop_scale=scale, crop_ratio=ratio, flip=flip, **(nothing | others))


EVERYTHING = ranges(
    (0.3, 0.9), (0.8, 1.25), 0.5, rotation=20.0, translation=0.1, brightness=0.4, erasing=0.5
)


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
    by_column = augment(across, SIZE, params, generator())[:, 0, SIZE // 2]
    by_row = augment(down, SIZE, params, generator())[:, 0, :, SIZE // 2]
    return tuple(
        (line[:, 3 * quarter] - line[:, quarter]).abs() / rise for line in (by_column, by_row)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("size", [40, 48, 96])
def test_the_full_crop_without_a_flip_is_what_validation_sees(size: int, images: Tensor) -> None:
    found = augment(images, size, ranges(), generator())
    torch.testing.assert_close(found, centre_batch(images, size, size), atol=1e-5, rtol=0)


def test_a_sure_flip_is_the_exact_mirror(images: Tensor) -> None:
    found = augment(images, SIZE, ranges(flip=1.0), generator())
    unflipped = augment(images, SIZE, ranges(flip=0.0), generator())
    torch.testing.assert_close(found, unflipped.flip(3), atol=2e-5, rtol=0)
    assert not torch.allclose(found, unflipped)


def test_a_flip_mirrors_the_crop_and_does_not_move_it(images: Tensor) -> None:
    scale, ratio = (0.3, 0.9), (0.8, 1.25)
    found = augment(images, SIZE, ranges(scale, ratio, flip=1.0), generator())
    unflipped = augment(images, SIZE, ranges(scale, ratio, flip=0.0), generator())
    torch.testing.assert_close(found, unflipped.flip(3), atol=2e-5, rtol=0)


def test_the_share_of_flips_is_the_probability(images: Tensor) -> None:
    found = augment(images, SIZE, ranges(flip=0.3), generator())
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
    crops = augment(columns, SIZE, ranges((0.25, 0.25)), generator())
    pixels = (crops[:, 0, 0] + 1) * 127.5 / 5  # (COUNT, SIZE) columns of the image
    middle = (pixels[:, SIZE // 2 - 1] + pixels[:, SIZE // 2]) / 2
    assert 11.5 - 1e-3 <= middle.min() < 13
    assert 34 < middle.max() <= 35.5 + 1e-3


def test_every_image_is_drawn_for_itself(images: Tensor) -> None:
    same = images[:1].expand(COUNT, 48, 48)
    found = augment(same, SIZE, ranges((0.3, 0.9), (0.8, 1.25), 0.5), generator())
    assert len(torch.unique(found, dim=0)) == COUNT


def test_the_same_seed_gives_the_same_batch_and_another_does_not(images: Tensor) -> None:
    params = EVERYTHING
    first = augment(images, SIZE, params, generator(1))
    torch.manual_seed(123)  # the global generator has no part in it
    assert torch.equal(augment(images, SIZE, params, generator(1)), first)
    assert not torch.equal(augment(images, SIZE, params, generator(2)), first)


def test_a_batch_moves_the_generator_on(images: Tensor) -> None:
    drawing = generator(1)
    first = augment(images, SIZE, EVERYTHING, drawing)
    assert not torch.equal(augment(images, SIZE, EVERYTHING, drawing), first)


def test_values_stay_between_minus_one_and_one_and_channels_last(images: Tensor) -> None:
    found = augment(images, SIZE, EVERYTHING, generator())
    assert found.shape == (COUNT, 3, SIZE, SIZE)
    assert found.min() >= -1 - 1e-6
    assert found.max() <= 1 + 1e-6
    assert torch.equal(found[:, 0], found[:, 2])
    assert found.is_contiguous(memory_format=torch.channels_last)


def slopes(params: AugmentParams) -> tuple[Tensor, Tensor]:
    """(COUNT,) rises to the right and downwards of a ramp from left to right, as fractions of its
    own, measured around the middle, where no corner of a turned image comes in."""
    ramp = (5 * torch.arange(48)).to(torch.uint8).expand(COUNT, 48, 48)
    batch = augment(ramp, SIZE, params, generator())[:, 0]
    middle, reach, own = SIZE // 2, 4, 5 / 127.5 * 48 / SIZE  # of the ramp, per pixel
    right = batch[:, middle, middle + reach] - batch[:, middle, middle - reach]
    down = batch[:, middle + reach, middle] - batch[:, middle - reach, middle]
    return right / (2 * reach * own), down / (2 * reach * own)


def test_a_rotation_turns_by_angles_up_to_the_largest_and_keeps_sizes() -> None:
    right, down = slopes(ranges(rotation=30.0))
    torch.testing.assert_close(right**2 + down**2, torch.ones(COUNT), atol=1e-3, rtol=0)
    angles = torch.atan2(down, right).rad2deg()
    assert -30 - 0.1 < angles.min() < -28
    assert 28 < angles.max() < 30 + 0.1
    assert abs(angles.mean()) < 5 * 30 / 3**0.5 / COUNT**0.5  # uniform


def test_a_turned_crop_is_turned_about_its_own_middle() -> None:
    """The middle of the whole image stays where it is, however it is turned."""
    dot = torch.zeros(COUNT, 48, 48, dtype=torch.uint8)
    dot[:, 22:26, 22:26] = 255
    turned = augment(dot, 48, ranges(rotation=180.0), generator())[:, 0] + 1
    place = torch.arange(48) + 0.5
    share = turned / turned.sum(dim=(1, 2), keepdim=True)
    for axis in (1, 2):
        centre = (share.sum(dim=3 - axis) * place).sum(dim=1)
        torch.testing.assert_close(centre, torch.full((COUNT,), 24.0), atol=0.05, rtol=0)


def test_a_translation_shifts_up_to_the_largest_on_both_axes() -> None:
    """By a tenth of 48 pixels, read off the middle of two ramps of 5 greys a pixel."""
    ramp = (5 * torch.arange(48)).to(torch.uint8)
    shifts = []
    for images in (ramp.expand(COUNT, 48, 48), ramp[:, None].expand(COUNT, 48, 48)):
        batch = augment(images, 48, ranges(translation=0.1), generator())[:, 0]
        shifts.append((batch[:, 24, 24] + 1) * 127.5 / 5 - 24)  # (COUNT,) pixels
    for shift in shifts:
        assert -4.8 - 1e-3 < shift.min() < -4.4
        assert 4.4 < shift.max() < 4.8 + 1e-3
    assert abs(torch.corrcoef(torch.stack(shifts))[0, 1]) < 0.3  # each axis for itself


def test_brightness_multiplies_the_greys_from_black_and_stops_at_white() -> None:
    greys = torch.tensor([0, 100, 250], dtype=torch.uint8)
    images = greys.repeat_interleave(16).expand(COUNT, 48, 48)  # three stripes
    batch = augment(images, 48, ranges(brightness=0.2), generator())[:, 0, 24]
    black, grey, white = ((batch[:, at] + 1) * 127.5 for at in (8, 24, 40))
    factor = grey / 100
    assert black.abs().max() < 1e-3
    assert 0.8 - 1e-4 < factor.min() < 0.82
    assert 1.18 < factor.max() < 1.2 + 1e-4
    torch.testing.assert_close(white, (250 * factor).clamp(max=255), atol=1e-2, rtol=0)


def erased(params: AugmentParams) -> Tensor:
    """(COUNT, SIZE, SIZE) where a white image is no longer white."""
    white = torch.full((COUNT, 48, 48), 255, dtype=torch.uint8)
    batch = augment(white, SIZE, params, generator())[:, 0]
    assert ((batch == 0) | (batch > 0.999)).all()
    return batch == 0


def test_nothing_is_erased_at_0_and_something_of_every_image_at_1() -> None:
    assert not erased(ranges(erasing=0.0)).any()
    assert erased(ranges(erasing=1.0)).flatten(1).any(dim=1).all()


def test_the_share_of_images_with_a_hole_is_the_probability() -> None:
    share = erased(ranges(erasing=0.3)).flatten(1).any(dim=1).float().mean()
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / COUNT) ** 0.5


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_what_is_erased_is_one_rectangle_of_the_sizes_of_random_erasing(probability: float) -> None:
    holes = erased(ranges(erasing=probability))
    holes = holes[holes.flatten(1).any(dim=1)]
    rows, columns = holes.any(dim=2), holes.any(dim=1)
    assert torch.equal(holes, rows[:, :, None] & columns[:, None, :])
    inside = (rows[:, [0, -1]] | columns[:, [0, -1]]).sum(dim=1) == 0  # no border cuts it
    height, width = rows.sum(dim=1)[inside] / SIZE, columns.sum(dim=1)[inside] / SIZE
    area, ratio, pixel = width * height, width / height, 1 / SIZE
    assert inside.sum() > 10
    assert area.min() > (math.sqrt(0.02 * 0.3) - pixel) * (math.sqrt(0.02 / 0.3) - pixel)
    assert area.max() < 0.25 + 2 * pixel
    # No hole, however small its share of images, is only of the small ones.
    assert area.max() > 0.12
    assert ratio.min() < 0.7
    assert ratio.max() > 1.4


def test_a_hole_is_mid_grey_whatever_the_brightness(images: Tensor) -> None:
    plain = augment(images, SIZE, ranges(brightness=0.4), generator())
    holed = augment(images, SIZE, ranges(brightness=0.4, erasing=1.0), generator())
    assert torch.equal(holed[holed != 0], plain[holed != 0])
    assert (holed == 0).float().mean() > 0.05


@pytest.mark.parametrize(
    "other",
    [
        ranges(),
        ranges((0.3, 0.9), (0.8, 1.25)),
        ranges(flip=1.0),
        ranges(rotation=20.0, translation=0.1, brightness=0.4, erasing=0.5),
    ],
)
def test_a_batch_moves_the_generator_on_by_the_same_draws_whatever_the_params(
    other: AugmentParams, images: Tensor
) -> None:
    one, another = generator(1), generator(1)
    augment(images, SIZE, EVERYTHING, one)
    augment(images, SIZE, other, another)
    assert torch.equal(one.get_state(), another.get_state())


def test_a_change_that_is_switched_on_leaves_the_others_as_they_were(images: Tensor) -> None:
    some = ranges((0.3, 0.9), (0.8, 1.25), 0.5)
    more = some.model_copy(update={"brightness": 0.0, "erasing": 0.5})
    plain = augment(images, SIZE, some, generator())
    holed = augment(images, SIZE, more, generator())
    assert torch.equal(holed[holed != 0], plain[holed != 0])

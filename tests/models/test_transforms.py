"""What validation sees is plain bilinear resizing and a central crop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as torchvision_functional

from fer_pipeline.models.transforms import (
    CENTRE,
    VIEWS,
    View,
    centre_batch,
    distinct_views,
    sample_affine,
    view_batch,
)
from fer_pipeline.params.schema import Tta


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 48, 48), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("image_size", "resize"), [(48, 48), (40, 40), (224, 224), (224, 256), (40, 48), (32, 96)]
)
def test_the_centre_crop_is_interpolate_and_slicing(
    image_size: int, resize: int, images: Tensor
) -> None:
    grey = images[:, None].float() / 127.5 - 1
    large = functional.interpolate(grey, (resize, resize), mode="bilinear", align_corners=False)
    edge = (resize - image_size) // 2
    wanted = large[:, :, edge : edge + image_size, edge : edge + image_size]
    found = centre_batch(images, image_size, resize)
    assert found.shape == (5, 3, image_size, image_size)
    for channel in range(3):
        torch.testing.assert_close(found[:, [channel]], wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("image_size", "resize"), [(96, 100), (40, 48), (32, 40), (48, 48)])
def test_the_ten_views_are_torchvisions_five_crops_and_their_mirror_images(
    image_size: int, resize: int, images: Tensor
) -> None:
    grey = images[:, None].float() / 127.5 - 1
    large = functional.interpolate(grey, (resize, resize), mode="bilinear", align_corners=False)
    crops = torchvision_functional.five_crop(large, [image_size, image_size])
    wanted = [*crops, *(torchvision_functional.hflip(crop) for crop in crops)]
    views = VIEWS["five_crops_flip"]
    assert len(views) == len(wanted) == 10
    for view, crop in zip(views, wanted, strict=True):
        found = view_batch(images, image_size, resize, view)
        torch.testing.assert_close(found, crop.expand(-1, 3, -1, -1), atol=3e-5, rtol=0)


def test_an_odd_margin_is_kept_whole_by_the_corners_and_halved_by_the_centre(
    images: Tensor,
) -> None:
    grey = images[:, None].float() / 127.5 - 1
    large = functional.interpolate(grey, (53, 53), mode="bilinear", align_corners=False)
    found = view_batch(images, 48, 53, View(1, -1, mirrored=False))
    torch.testing.assert_close(found[:, :1], large[:, :, :48, 5:], atol=3e-5, rtol=0)
    centre = view_batch(images, 48, 53, CENTRE)
    mirrored = view_batch(images, 48, 53, View(0, 0, mirrored=True))
    torch.testing.assert_close(mirrored, centre.flip(3), atol=3e-5, rtol=0)


@pytest.mark.parametrize(("tta", "smaller", "equal"), [
    ("centre", 1, 1), ("flip", 2, 2), ("five_crops_flip", 10, 2),
])  # fmt: skip
def test_views_that_show_the_same_are_one(
    tta: Tta, smaller: int, equal: int, images: Tensor
) -> None:
    for resize, count in ((48, smaller), (40, equal)):
        pictures = [view_batch(images, 40, resize, v) for v in distinct_views(tta, 40, resize)]
        assert len(pictures) == count
        for number, picture in enumerate(pictures):
            assert not any(torch.allclose(picture, other) for other in pictures[:number])


def test_the_mean_of_the_distinct_views_is_that_of_all(images: Tensor) -> None:
    everything = [view_batch(images, 40, 40, view) for view in VIEWS["five_crops_flip"]]
    distinct = [view_batch(images, 40, 40, v) for v in distinct_views("five_crops_flip", 40, 40)]
    torch.testing.assert_close(torch.stack(everything).mean(0), torch.stack(distinct).mean(0))


def test_the_centre_is_the_first_view_of_every_choice_without_corners() -> None:
    assert VIEWS["centre"] == (CENTRE,)
    assert VIEWS["flip"][0] == CENTRE


def test_black_is_minus_one_and_white_is_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None].expand(2, 48, 48)
    found = centre_batch(images, 64, 80)
    torch.testing.assert_close(found[0], torch.full((3, 64, 64), -1.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], torch.full((3, 64, 64), 1.0), atol=1e-6, rtol=0)


def test_values_stay_between_minus_one_and_one(images: Tensor) -> None:
    found = centre_batch(images, 75, 90)
    assert found.min() >= -1 - 1e-6
    assert found.max() <= 1 + 1e-6
    assert found.max() - found.min() > 1.5


@pytest.mark.parametrize("grey", [0, 1, 100, 255])
def test_a_constant_image_stays_constant_even_beyond_its_border(grey: int) -> None:
    images = torch.full((2, 48, 48), grey, dtype=torch.uint8)
    beyond = torch.tensor([[1.5, 0.2, 0.4], [0.1, 1.5, -0.3]]).expand(2, 2, 3)
    found = sample_affine(images, beyond, 32)
    wanted = torch.full((2, 3, 32, 32), grey / 127.5 - 1)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_batches_are_float_and_channels_last(images: Tensor) -> None:
    found = centre_batch(images, 40, 40)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_each_image_goes_through_its_own_map(images: Tensor) -> None:
    turn = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    stay = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = sample_affine(images[:2], torch.stack([stay, turn]), 48)
    grey = images[:2].float() / 127.5 - 1
    torch.testing.assert_close(found[0, 0], grey[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1, 0], grey[1].flip(1), atol=1e-5, rtol=0)

"""Random augmentation of a batch on its device: one affine map, greys and a rectangle per image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fer_pipeline.models.transforms import sample_affine

if TYPE_CHECKING:
    from fer_pipeline.params.schema import AugmentParams

ERASED_AREA = (0.02, 0.25)
"""Smallest and largest area that random erasing takes, as a fraction of the image (Zhong et al.,
arXiv 1708.04896)."""

ERASED_RATIO = (0.3, 3.3)
"""Smallest and largest ratio of width to height of the erased rectangle."""

_DRAWS = 13


def draw_augmentation(images: int, generator: torch.Generator) -> Tensor:
    """(13, B) uniform numbers on the generator's device: all that augmenting B images draws."""
    return torch.rand(_DRAWS, images, generator=generator, device=generator.device)


def augment_batch(images: Tensor, image_size: int, params: AugmentParams, draws: Tensor) -> Tensor:
    """Crop, resize, flip, turn, shift, brighten and erase, each image for itself.

    The crop is that of torchvision's `RandomResizedCrop`, except that one which would be wider or
    higher than the image is cut to it instead of being drawn again.

    Args:
        images: (B, 48, 48) uint8.
        image_size: S.
        params: ranges and probabilities of the changes.
        draws: from `draw_augmentation`, on the device of `images`; the same whatever the params.

    Returns:
        (B, 3, S, S) float32 in [-1, 1], channels last.
    """
    batch = sample_affine(images, _affine_maps(draws[:8], params), image_size)
    if params.brightness:
        factor = 1.0 + params.brightness * (2.0 * draws[8] - 1.0)
        # Greys from black, which is -1, and back.
        batch = ((batch + 1.0) * factor[:, None, None, None] - 1.0).clamp(-1.0, 1.0)
    if params.erasing:
        batch = batch * _kept(draws[9:], image_size, params.erasing)[:, None]
    return batch.contiguous(memory_format=torch.channels_last)


def _affine_maps(draws: Tensor, params: AugmentParams) -> Tensor:
    """(B, 2, 3) maps from output to input coordinates, from (8, B) uniform draws."""
    low, high = params.crop_scale
    area = low + (high - low) * draws[0]
    ratio = _between(draws[1], params.crop_ratio)
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    centre_x = (2.0 * draws[2] - 1.0) * (1.0 - width)
    centre_y = (2.0 * draws[3] - 1.0) * (1.0 - height)
    flip = 1.0 - 2.0 * (draws[4] < params.flip)
    angle = math.radians(params.rotation) * (2.0 * draws[5] - 1.0)
    shift_x, shift_y = (2.0 * params.translation * (2.0 * draw - 1.0) for draw in draws[6:8])
    cos, sin = angle.cos(), angle.sin()
    theta = torch.zeros(draws.shape[1], 2, 3, device=draws.device)
    theta[:, 0, 0] = cos * width * flip
    theta[:, 0, 1] = -sin * height
    theta[:, 0, 2] = centre_x + shift_x
    theta[:, 1, 0] = sin * width * flip
    theta[:, 1, 1] = cos * height
    theta[:, 1, 2] = centre_y + shift_y
    return theta


def _kept(draws: Tensor, image_size: int, probability: float) -> Tensor:
    """(B, S, S) with 0 where a rectangle is erased and 1 elsewhere, from (4, B) uniform draws.

    One draw serves both as the decision and, rescaled, as the area.
    """
    chosen = draws[0] < probability
    low, high = ERASED_AREA
    area = low + (high - low) * draws[0] / probability
    ratio = _between(draws[1], ERASED_RATIO)
    half_width, half_height = (area * ratio).sqrt() / 2, (area / ratio).sqrt() / 2  # of the image
    place = (torch.arange(image_size, device=draws.device) + 0.5) / image_size  # (S,)
    in_x = (place - draws[2][:, None]).abs() < half_width[:, None]  # (B, S)
    in_y = (place - draws[3][:, None]).abs() < half_height[:, None]
    erased = in_y[:, :, None] & in_x[:, None, :] & chosen[:, None, None]
    return (~erased).float()


def _between(draw: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Numbers between the bounds, whose logarithms are uniform, from uniform draws."""
    low, high = (math.log(bound) for bound in bounds)
    return torch.exp(low + (high - low) * draw)

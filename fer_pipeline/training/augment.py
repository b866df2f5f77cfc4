"""Random augmentation of a batch on its device: crop, resize and flip as one affine map each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fer_pipeline.models.inputs import sample_affine

if TYPE_CHECKING:
    from fer_pipeline.params import AugmentParams


def augment_batch(
    images: Tensor, image_size: int, params: AugmentParams, generator: torch.Generator
) -> Tensor:
    """Randomly resized crop and horizontal flip, as torchvision's `RandomResizedCrop`.

    Unlike torchvision's, a crop that would be wider or higher than the image is cut to it
    instead of being drawn again.

    Args:
        images: (B, 48, 48) uint8.
        image_size: S.
        params: ranges of the crop's area and ratio, and probability of a flip.
        generator: on the device of `images`.

    Returns:
        (B, 3, S, S) float32 in [-1, 1], channels last.
    """
    count = len(images)
    draws = torch.rand(5, count, generator=generator, device=images.device)  # (5, B)
    low, high = params.crop_scale
    area = low + (high - low) * draws[0]
    ratio_low, ratio_high = (math.log(bound) for bound in params.crop_ratio)
    ratio = torch.exp(ratio_low + (ratio_high - ratio_low) * draws[1])
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    centre_x = (2.0 * draws[2] - 1.0) * (1.0 - width)
    centre_y = (2.0 * draws[3] - 1.0) * (1.0 - height)
    flip = torch.where(draws[4] < params.flip, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=images.device)
    theta[:, 0, 0] = width * flip
    theta[:, 0, 2] = centre_x
    theta[:, 1, 1] = height
    theta[:, 1, 2] = centre_y
    return sample_affine(images, theta, image_size)

"""Images as a backbone takes them: batches of 48x48 grey uint8 made (B, 3, S, S) in [-1, 1].

An affine map per image is sampled once for the whole batch and on its device. Enlarging by
`grid_sample` with `align_corners=False` is plain bilinear resizing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def centre_batch(images: Tensor, image_size: int, resize: int) -> Tensor:
    """Enlarge to `resize` pixels and take the central `image_size`: what validation sees.

    Args:
        images: (B, 48, 48) uint8.
        image_size: S.
        resize: at least S.

    Returns:
        (B, 3, S, S) float32 in [-1, 1], channels last.
    """
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = image_size / resize
    return sample_affine(images, theta, image_size)


def sample_affine(images: Tensor, theta: Tensor, image_size: int) -> Tensor:
    """Sample each image through its own map from output to input coordinates in [-1, 1].

    Args:
        images: (B, H, W) uint8.
        theta: (B, 2, 3) affine maps, as `torch.nn.functional.affine_grid` takes them.
        image_size: S.

    Returns:
        (B, 3, S, S) float32 in [-1, 1], channels last.
    """
    grey = images[:, None].float() / 127.5 - 1.0  # (B, 1, 48, 48)
    grid = functional.affine_grid(
        theta, [len(images), 1, image_size, image_size], align_corners=False
    )
    sampled = functional.grid_sample(grey, grid, padding_mode="border", align_corners=False)
    return sampled.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

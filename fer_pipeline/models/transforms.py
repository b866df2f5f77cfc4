"""Images as a backbone takes them: batches of 48x48 grey uint8 made (B, 3, S, S) in [-1, 1].

An affine map per image is sampled once for the whole batch and on its device. Enlarging by
`grid_sample` with `align_corners=False` is plain bilinear resizing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Tta


@dataclass(frozen=True)
class View:
    """A crop of the enlarged image.

    `x` and `y` say where it lies: -1 at the left or top edge, 0 in the centre, 1 at the right or
    bottom edge.
    """

    x: int
    y: int
    mirrored: bool


CENTRE = View(0, 0, mirrored=False)
_FIVE = ((-1, -1), (1, -1), (-1, 1), (1, 1), (0, 0))

VIEWS: dict[Tta, tuple[View, ...]] = {
    "centre": (CENTRE,),
    "flip": (CENTRE, View(0, 0, mirrored=True)),
    "five_crops_flip": tuple(View(x, y, mirrored) for mirrored in (False, True) for x, y in _FIVE),
}
"""The views of each choice of `predict.tta`; the ten are those of Krizhevsky et al. (2012)."""


def distinct_views(tta: Tta, image_size: int, resize: int) -> list[View]:
    """The views without those that show what another one shows.

    Where the crop is all of the enlarged image, its place makes no difference. Every view then
    stands for as many of the ten as every other, so their plain mean is that of all.
    """
    if image_size < resize:
        return list(VIEWS[tta])
    return list(dict.fromkeys(View(0, 0, view.mirrored) for view in VIEWS[tta]))


def centre_batch(images: Tensor, image_size: int, resize: int) -> Tensor:
    """Enlarge to `resize` pixels and take the central `image_size`: what validation sees."""
    return view_batch(images, image_size, resize, CENTRE)


def view_batch(images: Tensor, image_size: int, resize: int, view: View) -> Tensor:
    """Enlarge to `resize` pixels and take `image_size` of them at the view's place.

    Args:
        images: (B, 48, 48) uint8.
        image_size: S.
        resize: at least S.
        view: where, and whether mirrored.

    Returns:
        (B, 3, S, S) float32 in [-1, 1], channels last.
    """
    share = image_size / resize
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = -share if view.mirrored else share
    theta[:, 1, 1] = share
    # From its centre a crop can move by what it leaves of the image: half of it to each side,
    # in coordinates that go from -1 to 1.
    theta[:, 0, 2] = view.x * (1 - share)
    theta[:, 1, 2] = view.y * (1 - share)
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

"""A backbone's logits for many images as fast as the device can, where no record is made.

What makes the difference to `models.inference`, which the record is computed with: batch norm is
folded into the convolutions, weights and activations are bf16, and all views of an image go through
the network together. On a CPU the weights are packed (`serving.packing`), and a batch is no larger
than what the processor's cache bears. On a GPU the forward pass of a few batch sizes is captured,
and a batch is filled up to the next of them.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from fer_pipeline.data.faces import SIDE
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.models.transforms import distinct_views, view_batch
from fer_pipeline.serving.packing import can_pack, pack
from fer_pipeline.training.capture import Captured

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Tta

CPU_PIXELS = 700_000
"""Pixels in one forward pass on a CPU: 8 images of 299x299 were 1.7 times as fast as 32."""

GPU_BATCHES = (1, 8, 32, 128)
"""Images in the forward passes that are captured."""

PACKED_FOR = (1, 4)
"""Images in the batches that weights are put in order for on a CPU, which takes a copy for each.

At 299 pixels, a batch takes twice as long with the order for one image, and one image five times as
long with the order for a batch.
"""


class FastBackbone:
    """One backbone, ready for many images.

    Args:
        model: in eval mode, in float32, on its device; it is not changed.
        image_size, resize: as `view_batch` takes them.
        tta: which views of each image.
    """

    def __init__(self, model: nn.Module, image_size: int, resize: int, tta: Tta) -> None:
        self._sizes = image_size, resize
        self._views = distinct_views(tta, image_size, resize)
        folded = cast("fx.GraphModule", fuse(model))
        folded.to(torch.bfloat16).to(memory_format=torch.channels_last)
        self._models = [folded]
        if next(model.parameters()).device.type == "cpu" and can_pack():
            self._models = [self._pack(deepcopy(folded), count) for count in PACKED_FOR]
        self._captured: dict[int, Captured[tuple[Tensor]]] = {}

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Average the logits of each image's views.

        Args:
            images: (N, 48, 48) uint8 on the model's device.

        Returns:
            (N, C) float32 logits, there.
        """
        if not len(images):
            return torch.empty(0, NUM_EMOTIONS, device=images.device)
        forward = self._forward_captured if images.is_cuda else self._forward
        return torch.cat([forward(batch) for batch in torch.split(images, self._most(images))])

    def _most(self, images: Tensor) -> int:
        """How many images go through the network together."""
        if images.is_cuda:
            return GPU_BATCHES[-1]
        return max(1, CPU_PIXELS // (self._sizes[0] ** 2 * len(self._views)))

    def _pack(self, network: fx.GraphModule, count: int) -> fx.GraphModule:
        pack(network, self._see(torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)))
        return network

    def _see(self, images: Tensor) -> Tensor:
        """(V B, 3, S, S): all views of all images."""
        views = [view_batch(images, *self._sizes, view) for view in self._views]
        return torch.cat(views).bfloat16()

    def _forward(self, images: Tensor) -> Tensor:
        model = self._models[-1 if len(images) >= PACKED_FOR[-1] else 0]
        logits: Tensor = model(self._see(images))  # (V B, C)
        return logits.float().reshape(len(self._views), len(images), -1).mean(dim=0)

    def _forward_captured(self, images: Tensor) -> Tensor:
        size = next(size for size in GPU_BATCHES if size >= len(images))
        if size not in self._captured:
            self._captured[size] = Captured(
                lambda inputs: self._forward(inputs[0]), f"a batch of {size}"
            )
        filled = images.new_zeros(size, *images.shape[1:])
        filled[: len(images)] = images
        # The next call overwrites what this one gives.
        return self._captured[size]((filled,))[: len(images)].clone()

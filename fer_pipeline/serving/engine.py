"""A backbone's logits for many images as fast as the device can, where no record is made.

What makes the difference to `models.inference`, which the record is computed with: batch norm is
folded into the convolutions, weights and activations are bf16, and all views of an image go through
the network together. On a CPU the weights are packed, and a batch is no larger
than what the processor's cache bears. On a GPU the forward pass of a few batch sizes is captured,
and a batch is filled up to the next of them.

torch hands oneDNN the weights of a convolution as they lie, and oneDNN brings them into its own
order at each call: for one face that takes longer than the convolution. Here they are put in order
once, and the addition and the ReLU after a convolution are done in the same pass. These are the
operators that Inductor takes for a frozen network; they need no compiler.
"""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from fer_pipeline.data.faces import SIDE
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.models.transforms import distinct_views, view_batch
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

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (functional.relu, torch.relu)


class FastBackbone:
    """One backbone, ready for many images.

    Args:
        model: in eval mode, in float32, on its device; it is changed, and no use afterwards.
        image_size, resize: as `view_batch` takes them.
        tta: which views of each image.
    """

    def __init__(self, model: nn.Module, image_size: int, resize: int, tta: Tta) -> None:
        self._sizes = image_size, resize
        self._views = distinct_views(tta, image_size, resize)
        on_cpu = next(model.parameters()).device.type == "cpu"
        folded = cast("fx.GraphModule", fuse(model, inplace=True))
        folded.to(torch.bfloat16).to(memory_format=torch.channels_last)
        self._models = [folded]
        if on_cpu and can_pack():
            copies = *(deepcopy(folded) for _ in PACKED_FOR[1:]), folded
            self._models = [self._pack(*each) for each in zip(copies, PACKED_FOR, strict=True)]
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


class _Packed(nn.Module):
    """A convolution, then perhaps the sum with another tensor, then perhaps a ReLU."""

    def __init__(self, plain: nn.Conv2d, size: torch.Size, relu: bool) -> None:
        super().__init__()
        self._settings = plain.padding, plain.stride, plain.dilation, plain.groups
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            plain.weight.detach(), *self._settings, size
        )
        self._bias = None if plain.bias is None else plain.bias.detach()
        self._after = "relu" if relu else "none"

    def forward(self, seen: Tensor, other: Tensor | None = None) -> Tensor:
        compute, given = torch.ops.mkldnn._convolution_pointwise, (self._weight, self._bias)
        if other is None:
            found = compute(seen, *given, *self._settings, self._after, [], "")
        else:
            found = compute.binary(
                seen, other, *given, *self._settings, "add", None, self._after, [], ""
            )
        return cast("Tensor", found)


def can_pack() -> bool:
    """Whether oneDNN is there, and this processor computes in bf16."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(there and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def pack(network: fx.GraphModule, example: Tensor) -> None:
    """Put the weights of a network's convolutions in oneDNN's order; those before are freed.

    Args:
        network: in bf16, channels last, and without batch norm; it is changed.
        example: a batch as it usually comes; the network takes others, too.
    """
    ShapeProp(network).propagate(example)
    place = {node: number for number, node in enumerate(network.graph.nodes)}
    for node in place:
        plain = _module(network, node)
        if not _fits(plain) or len(network.graph.find_nodes(op=node.op, target=node.target)) > 1:
            continue
        size = _shape(node.args[0])
        _absorb_addition(node, place)
        relu = _absorb_relu(network, node)
        network.set_submodule(str(node.target), _Packed(cast("nn.Conv2d", plain), size, relu))
    network.recompile()


def _fits(module: nn.Module | None) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _module(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _shape(node: object) -> torch.Size:
    """Of what a node gave for the example."""
    found: torch.Size = cast("fx.Node", node).meta["tensor_meta"].shape
    return found


def _absorb_addition(node: fx.Node, place: dict[fx.Node, int]) -> None:
    """Make the other summand an argument, if a sum is all that the result is taken for."""
    (user, *others) = node.users
    if others or user.target not in _ADDITIONS or user.kwargs:
        return
    other = user.args[user.args[0] is node]
    if isinstance(other, fx.Node) and place[other] < place[node] and _shape(other) == _shape(node):
        node.args = (node.args[0], other)
        _replace(user, node)


def _absorb_relu(network: fx.GraphModule, node: fx.Node) -> bool:
    (user, *others) = node.users
    relu = user.target in _RELUS or isinstance(_module(network, user), nn.ReLU)
    if others or not relu:
        return False
    _replace(user, node)
    return True


def _replace(user: fx.Node, node: fx.Node) -> None:
    user.replace_all_uses_with(node)
    user.graph.erase_node(user)

"""A network's convolutions as oneDNN computes them best, for bf16 on a CPU.

torch hands oneDNN the weights of a convolution as they lie, and oneDNN brings them into its own
order at each call: for one face that takes longer than the convolution. Here they are put in order
once, and the addition and the ReLU after a convolution are done in the same pass. These are the
operators that Inductor takes for a frozen network; they need no compiler.
"""

from __future__ import annotations

import operator
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (functional.relu, torch.relu)


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

"""Optimisers, learning-rate schedules and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from fer_pipeline.params.schema import TrainingParams

Schedule = Literal["constant", "cosine", "onecycle"]

ONECYCLE_RISE = 0.3
"""Share of the steps in which a one-cycle rate rises, where no warm-up says otherwise."""

FIRST_RATE = 0.04
"""The rate at the first step of a warm-up, as a fraction of the largest."""


def build_optimizer(
    trainable: Iterable[nn.Parameter], learning_rate: float, params: TrainingParams
) -> Optimizer:
    """The optimiser of one phase; weight decay spares norms and biases, which have one axis."""
    trainable = list(trainable)
    groups = [
        {"params": [one for one in trainable if one.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [one for one in trainable if one.ndim <= 1], "weight_decay": 0.0},
    ]
    if params.optimizer == "sgd":
        nesterov = params.momentum > 0
        momentum = params.momentum
        return SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov, fused=True)
    return (Adam if params.optimizer == "adam" else AdamW)(groups, lr=learning_rate, fused=True)


def build_schedule(
    optimizer: Optimizer, schedule: Schedule, steps: int, warmup_steps: int
) -> LambdaLR:
    """A schedule that is moved on once per optimiser step."""
    return LambdaLR(optimizer, lambda step: rate_factor(schedule, step, steps, warmup_steps))


def fit_to_device(optimizer: Optimizer, device: torch.device) -> None:
    """On a GPU, let steps be captured: with learning rates that are read there at each step.

    To be called when a schedule was made, which needs numbers, and when a state was loaded, which
    may come from another device.
    """
    on_gpu = device.type == "cuda"
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        group["lr"] = torch.tensor(rate, device=device) if on_gpu else rate
        if "capturable" in group:  # SGD has none, and can be captured
            group["capturable"] = on_gpu


def rate_factor(schedule: Schedule, step: int, steps: int, warmup_steps: int) -> float:
    """The learning rate at a step, as a fraction of the largest.

    `cosine` falls to 0 (Loshchilov and Hutter, arXiv 1608.03983). `onecycle` rises and falls by
    half a cosine each (Smith and Topin, arXiv 1708.07120). A warm-up rises linearly before the
    others, and is how long `onecycle` rises.
    """
    rise = warmup_steps
    if schedule == "onecycle" and not warmup_steps:
        rise = round(ONECYCLE_RISE * steps)
    if step < rise:
        done = step / rise
        if schedule == "onecycle":
            done = (1 - math.cos(math.pi * done)) / 2
        return FIRST_RATE + (1 - FIRST_RATE) * done
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise)))) / 2


class MovingAverage:
    """An exponential moving average of a network's weights and batch norm statistics.

    Young averages follow faster, as in TensorFlow's: after n updates the decay is at most
    (1 + n) / (10 + n), so that the random first weights are soon forgotten. torch's own
    (`swa_utils.AveragedModel`) asks the GPU for n at each update, and waits for the answer.

    Args:
        model: the network that it follows, on its device.
        decay: of old values, per update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = deepcopy(model).requires_grad_(requires_grad=False)
        self._decay, self._updates = decay, 0
        self._own, self._followed = _floats_and_counts(self.module), _floats_and_counts(model)

    def update(self) -> None:
        """Move towards the network as it is now; the first time, all the way."""
        kept = min(self._decay, (1 + self._updates) / (10 + self._updates)) if self._updates else 0
        torch._foreach_lerp_(self._own[0], self._followed[0], 1.0 - kept)
        if self._own[1]:
            torch._foreach_copy_(self._own[1], self._followed[1])
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self._updates = state["updates"]


def _floats_and_counts(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What is averaged, and the counts of batches that batch norms keep."""
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )

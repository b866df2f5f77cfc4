"""Optimisers, learning-rate schedules and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from fer_pipeline.params.schema import TrainingParams

Tensors = tuple[Tensor, ...] | list[Tensor]
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


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and batch norm statistics.

    Young averages follow faster, as in TensorFlow's: after n updates the decay is at most
    (1 + n) / (10 + n), so that the random first weights are soon forgotten.
    """

    def update(averages: Tensors, values: Tensors, _: Tensor | int) -> None:
        updates = int(average_model.n_averaged)  # on the CPU: a look at a GPU's copy would wait
        young = (1 + updates) / (10 + updates)
        if not averages[0].is_floating_point():  # batch norm counts its batches
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)
            return
        torch._foreach_lerp_(averages, values, 1 - min(decay, young))

    average_model = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average_model

"""fp32 or bf16: whichever trains this network, at this size, on this device, faster.

bf16 is no sure gain: on a CPU without its instructions it is slower, and where they are there it
still depends on the layers' shapes. So a few real steps of each are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, Precision] = ("fp32", "bf16")

WARM_STEPS = 1
"""Steps that are not timed: the first one allocates memory."""

TIMED_STEPS = 3
"""Steps that are timed, of which the fastest counts."""

MIN_GAIN = 1.05
"""How many times as fast bf16 must be to be chosen: its rounding must be worth it."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The context in which a network's operations run in this precision, as autocast does it."""
    context: AbstractContextManager[None] = torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=precision == "bf16",
        cache_enabled=device.type == "cpu",  # on GPUs as torch asks for where work is captured
    )
    return context


def measure_precision(
    model: nn.Module, device: torch.device, loss: Callable[[nn.Module], Tensor]
) -> tuple[Precision, float]:
    """Time steps of a copy of the network.

    Args:
        model: on its device; it is not changed.
        device: where the model is.
        loss: one forward pass through the given network, from which gradients flow back.

    Returns:
        The faster precision, and how many times faster bf16 was.
    """
    trial = deepcopy(model)
    fp32_s, bf16_s = (_step_seconds(trial, device, name, loss) for name in PRECISIONS)
    gain = fp32_s / bf16_s
    return ("bf16" if gain >= MIN_GAIN else "fp32"), gain


def _step_seconds(
    model: nn.Module,
    device: torch.device,
    precision: Precision,
    loss: Callable[[nn.Module], Tensor],
) -> float:
    seconds = []
    devices = [device] if device.type == "cuda" else []
    # Dropout must not draw from what the training draws from.
    with torch.random.fork_rng(devices):
        for _ in range(WARM_STEPS + TIMED_STEPS):
            _wait_for(device)
            started = time.perf_counter()
            with autocast(device, precision):
                value = loss(model)
            value.backward()  # type: ignore[no-untyped-call]
            _wait_for(device)
            seconds.append(time.perf_counter() - started)
            model.zero_grad(set_to_none=True)
    return min(seconds[WARM_STEPS:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""fp32 or bf16: whichever trains this network, at this size, on this device, faster.

bf16 is no sure gain: on a CPU without its instructions it is slower, and where they are there it
still depends on the layers' shapes. So a few real steps of each are timed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_pipeline.training.augment import augment_batch, draw_augmentation
from fer_pipeline.training.job import Job, draws_of_epoch
from fer_pipeline.training.memory import halve_until_it_fits, unify_out_of_memory

log = logging.getLogger(__name__)

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


def choose_precision(job: Job) -> Precision:
    """The precision that params name, or the faster one; the same on all devices."""
    wanted = job.training.precision
    if wanted != "auto":
        return wanted
    share = job.params.finetune.batch_size // job.fabric.world_size
    measured = _measure(job, share) if job.fabric.is_global_zero else ("fp32", 1.0)
    chosen: Precision
    chosen, gain = job.fabric.broadcast(measured)
    log.info("%s: %s, since bf16 is %.2f times as fast", job.backbone, chosen, gain)
    job.observer.noted("precision", chosen)
    return chosen


def _measure(job: Job, count: int) -> tuple[Precision, float]:
    """Time steps of so many of the first images of train, or of fewer where memory is short."""
    device = job.fabric.device
    model = job.model.requires_grad_(True).train()  # as in the phase that trains all of it
    pixels, labels = job.train.pixels[:count], job.train.labels[:count]

    def measure(images: int) -> tuple[Precision, float]:
        def loss(trial: nn.Module) -> Tensor:
            return functional.cross_entropy(trial(batch[:images]).float(), labels[:images])

        return measure_precision(model, device, loss)

    try:
        with unify_out_of_memory():
            draws = draw_augmentation(len(pixels), draws_of_epoch(job.seed, 0, device).pictures)
            # (B, 3, S, S)
            batch = augment_batch(pixels, job.params.image_size, job.training.augment, draws)
            return halve_until_it_fits(measure, count)[0]
    except torch.OutOfMemoryError:
        return "fp32", 1.0  # the training will say that memory does not suffice


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

"""The devices that a training runs on, through Lightning Fabric.

With several devices the process that asks for them starts the others, each of which runs the same
command again from its beginning (torch's DistributedDataParallel; gloo on CPUs, NCCL on GPUs).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import distributed, nn

from fer_pipeline.choices import describe_cpu
from fer_pipeline.errors import TrainingError, one_line
from fer_pipeline.training.memory import SMALLEST_MICRO_BATCH

log = logging.getLogger(__name__)


def choose_devices(devices: Literal["auto"] | int, batch_sizes: Mapping[str, int]) -> Fabric:
    """Choose the devices; `launch` then starts the processes that share them.

    Args:
        devices: `auto` takes all visible GPUs that the batches can be shared among, or one CPU
            process. A number is of GPUs where there are any, else of CPU processes.
        batch_sizes: of the batches that are to be shared, by their keys in params.

    Raises:
        TrainingError: there are not so many devices, they can't be used, or they can't share a
            batch evenly.
    """
    gpus = torch.cuda.device_count()
    count = most_devices(gpus, batch_sizes.values()) if devices == "auto" else devices
    if gpus and count > gpus:
        raise TrainingError(
            f"training.devices is {count}, but only {gpus} GPUs are visible: ask for fewer, or "
            f"check CUDA_VISIBLE_DEVICES"
        )
    if not gpus and count > (os.cpu_count() or 1):
        raise TrainingError(
            f"training.devices is {count}, but there are no GPUs and only {os.cpu_count()} CPU "
            f"cores: ask for fewer"
        )
    for key, size in batch_sizes.items():
        if count > 1 and not shares_evenly(size, count):
            raise TrainingError(
                f"{key} is {size}: it must be a multiple of the {count} devices that share it, "
                f"with {SMALLEST_MICRO_BATCH} images or more for each"
            )
    if gpus:
        _start_cuda()
    return Fabric(
        accelerator="cuda" if gpus else "cpu",
        devices=count,
        strategy="ddp" if count > 1 else "auto",
        precision="32-true",  # autocast is set where the network runs, see `precision`
    )


def _start_cuda() -> None:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise TrainingError(
            f"the GPU can't be used ({one_line(error)}): update its driver, or train on the CPU "
            f"with CUDA_VISIBLE_DEVICES=''"
        ) from error


def shares_evenly(batch_size: int, devices: int) -> bool:
    """Whether each device gets as many images of a batch, and enough for batch norm."""
    return batch_size % devices == 0 and batch_size >= devices * SMALLEST_MICRO_BATCH


def most_devices(gpus: int, batch_sizes: Collection[int]) -> int:
    """How many of the GPUs can share all of the batches evenly; 1 if there is none."""
    count = next(
        (n for n in range(gpus, 1, -1) if all(shares_evenly(size, n) for size in batch_sizes)), 1
    )
    if count < gpus and "LOCAL_RANK" not in os.environ:  # which the processes have that it starts
        log.info("%d of %d GPUs: more can't share the batches evenly", count, gpus)
    return count


def describe_hardware(device: torch.device, count: int) -> str:
    """Such as `2 x NVIDIA H100`, or `AMD EPYC, 2 cores` whatever the number of CPU processes."""
    if device.type == "cuda":
        return f"{count} x {torch.cuda.get_device_name(device)}"
    return describe_cpu()


def convert_sync_batchnorm(model: nn.Module, fabric: Fabric) -> None:
    """On several GPUs, let a network's batch norms see what all of them see, from now on.

    Then one of them can't train a step alone. On CPUs torch has no such batch norm: there each
    process normalises its own share.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


def share_statistics(model: nn.Module, fabric: Fabric) -> None:
    """Give every process the first one's batch norm statistics.

    Where each normalises its own share of a batch they differ, and the first one's are stored.
    """
    if fabric.world_size > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)

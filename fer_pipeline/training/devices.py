"""The devices that a training runs on, through Lightning Fabric.

With several devices the process that asks for them starts the others, each of which runs the same
command again from its beginning (torch's DistributedDataParallel; gloo on CPUs, NCCL on GPUs).
"""

from __future__ import annotations

import os
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from fer_pipeline.errors import TrainingError
from fer_pipeline.training.precision import PRECISIONS


def choose_devices(devices: Literal["auto"] | int, strategy: Literal["auto", "ddp"]) -> Fabric:
    """The devices; `launch` then starts the processes that share them.

    Args:
        devices: `auto` takes all visible GPUs, or one CPU process. A number is of GPUs where there
            are any, else of CPU processes. `FER_DEVICES` in the environment overrides it.
        strategy: `ddp`, or `auto`, which is ddp for more than one device. `FER_STRATEGY` overrides.

    Raises:
        TrainingError: there are not so many devices, or no such strategy.
    """
    wanted, name = _setting("FER_DEVICES", "training.devices", devices)
    how, how_name = _setting("FER_STRATEGY", "training.strategy", strategy)
    gpus = torch.cuda.device_count()
    if how not in ("auto", "ddp"):
        raise TrainingError(f"{how_name} is {how!r}: it must be auto or ddp")
    if wanted != "auto" and not (wanted.isdecimal() and int(wanted) >= 1):
        raise TrainingError(f"{name} is {wanted!r}: it must be auto or a number from 1")
    count = max(gpus, 1) if wanted == "auto" else int(wanted)
    if gpus and count > gpus:
        raise TrainingError(
            f"{name} is {count}, but only {gpus} GPUs are visible: ask for fewer, or "
            f"check CUDA_VISIBLE_DEVICES"
        )
    if not gpus and count > (os.cpu_count() or 1):
        raise TrainingError(
            f"{name} is {count}, but there are no GPUs and only {os.cpu_count()} CPU cores: "
            f"ask for fewer"
        )
    return Fabric(
        accelerator="cuda" if gpus else "cpu",
        devices=count,
        strategy="ddp" if count > 1 or how == "ddp" else "auto",
        precision="32-true",  # autocast is set where the network runs, see `precision`
    )


def wanted_precision(precision: str) -> str:
    """`fp32`, `bf16` or `auto`: `FER_PRECISION` in the environment overrides params.yaml.

    Raises:
        TrainingError: there is no such precision.
    """
    wanted, name = _setting("FER_PRECISION", "training.precision", precision)
    if wanted not in ("auto", *PRECISIONS):
        raise TrainingError(f"{name} is {wanted!r}: it must be auto, fp32 or bf16")
    return wanted


def _setting(variable: str, key: str, value: object) -> tuple[str, str]:
    """The environment's value and the variable's name, or those of params.yaml."""
    found = os.environ.get(variable)
    return (found, variable) if found else (str(value), key)


def share_norms(model: nn.Module, fabric: Fabric) -> None:
    """On several GPUs, let a network's batch norms see what all of them see, from now on.

    Then one of them can't train a step alone. On CPUs torch has no such batch norm: there each
    process normalises its own share.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]

"""What a training ran on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def describe_hardware(device: torch.device, count: int) -> str:
    """Such as `2 x NVIDIA H100`, or `AMD EPYC, 2 cores` whatever the number of CPU processes."""
    if device.type == "cuda":
        return f"{count} x {torch.cuda.get_device_name(device)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_name()}, {cores} core{'s' if cores != 1 else ''}"


def _cpu_name() -> str:
    if _CPU_INFO.exists():  # platform knows the architecture alone on Linux
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "CPU"

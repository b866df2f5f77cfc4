"""What a stage chose by measuring the machine, kept so that the same inputs give the same bytes.

A choice is found again by what decides the stage's outs and by the machine that it was measured on.
It lies beside the checkpoints, and stays when they are deleted.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from fer_pipeline.files import write_json
from fer_pipeline.paths import CHECKPOINTS

_CPU_INFO = Path("/proc/cpuinfo")


class Choices:
    """The choices of a stage with these inputs.

    Args:
        key: digest of the inputs (`StageInputs.key`).
    """

    def __init__(self, key: str) -> None:
        self._path = CHECKPOINTS / "choices" / f"{key}.json"

    def recall(self, name: str, machine: str) -> str | None:
        """What was chosen on such a machine; None where nothing was, or it can't be read."""
        found = self._read().get(f"{name} on {machine}")
        return None if found is None else str(found)

    def remember(self, name: str, machine: str, value: str) -> None:
        write_json(self._path, {**self._read(), f"{name} on {machine}": value})

    def _read(self) -> dict[str, object]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def describe_cpu() -> str:
    """Such as `AMD EPYC, 2 cores`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_name()}, {cores} core{'s' if cores != 1 else ''}"


def _cpu_name() -> str:
    if _CPU_INFO.exists():  # platform knows the architecture alone on Linux
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "CPU"

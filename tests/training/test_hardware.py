"""What a training ran on is said in words that a reader knows."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch

from fer_pipeline.training import hardware
from fer_pipeline.training.hardware import describe_hardware

CPU = torch.device("cpu")


def test_a_cpu_is_named_with_the_cores_that_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\n\nmodel name\t: Other\n")
    monkeypatch.setattr(hardware, "_CPU_INFO", info)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert describe_hardware(CPU, 1) == "Some CPU: 3 GHz, 2 cores"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert describe_hardware(CPU, 4) == "Some CPU: 3 GHz, 1 core"


def test_without_a_name_the_architecture_stands_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert describe_hardware(CPU, 1).startswith(f"{platform.machine()}, ")

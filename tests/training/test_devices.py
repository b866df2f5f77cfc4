"""Devices that can't be had are refused; those that can train as one does."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from bench import small_network
from lightning_fabric import Fabric
from torch import nn

from fer_pipeline.errors import TrainingError
from fer_pipeline.training.devices import choose_devices, share_norms

SCRIPT = Path(__file__).with_name("shared_devices.py")
CORES = os.cpu_count() or 1

on_two_cores = pytest.mark.skipif(CORES < 2, reason="needs two CPU cores")
on_cpus = pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs come before CPU processes")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FER_DEVICES", "FER_STRATEGY"):
        monkeypatch.delenv(variable, raising=False)


@on_cpus
@pytest.mark.parametrize(
    ("devices", "env", "says"),
    [
        ("auto", "0", "FER_DEVICES is '0': it must be auto or a number from 1"),
        ("auto", "two", "FER_DEVICES is 'two': it must be auto or a number from 1"),
        ("auto", "-1", "FER_DEVICES is '-1': it must be auto or a number from 1"),
        ("auto", "1.5", "FER_DEVICES is '1.5': it must be auto or a number from 1"),
        (
            CORES + 1,
            "",
            f"training.devices is {CORES + 1}, but there are no GPUs and only {CORES} CPU cores: "
            f"ask for fewer",
        ),
        (
            1,
            str(CORES + 1),
            f"FER_DEVICES is {CORES + 1}, but there are no GPUs and only {CORES} CPU cores: "
            f"ask for fewer",
        ),
    ],
)
def test_devices_that_are_not_there_are_refused_by_the_name_that_asked_for_them(
    devices: Any, env: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_DEVICES", env)
    with pytest.raises(TrainingError) as refused:
        choose_devices(devices, "auto")
    assert str(refused.value) == says


def test_an_unknown_strategy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_STRATEGY", "fsdp")
    with pytest.raises(TrainingError) as refused:
        choose_devices("auto", "auto")
    assert str(refused.value) == "FER_STRATEGY is 'fsdp': it must be auto or ddp"


@on_cpus
def test_without_gpus_auto_is_one_process_on_the_cpu() -> None:
    fabric = choose_devices("auto", "auto")
    assert (fabric.world_size, fabric.device) == (1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "devices", "shared"), [("cuda", 2, True), ("cuda", 1, False), ("cpu", 2, False)]
)
def test_batch_norms_of_several_gpus_are_shared_with_the_weights_they_have(
    kind: str, devices: int, shared: bool
) -> None:
    model = small_network()
    weights, state = list(model.parameters()), list(model.state_dict())
    fabric = SimpleNamespace(world_size=devices, device=torch.device(kind))
    share_norms(model, cast(Fabric, fabric))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == shared
    assert any(type(module) is nn.BatchNorm2d for module in model.modules()) != shared
    assert list(map(id, model.parameters())) == list(map(id, weights))
    assert list(model.state_dict()) == state


@on_cpus
@on_two_cores
def test_a_number_in_the_environment_overrides_the_params(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_DEVICES", "2")
    assert choose_devices(1, "auto").world_size == 2


def train_on_two(kind: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, kind, out],
        env=os.environ | {"FER_DEVICES": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@on_cpus
@on_two_cores
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "notes"),
    [("cached", {}), ("cramped", {"micro_batch.head": "3", "micro_batch.finetune": "3"})],
)
def test_two_processes_train_as_one_does(kind: str, notes: dict[str, str], tmp_path: Path) -> None:
    """Also where memory does not suffice in one of them for its share of a batch.

    A network without batch norm, so that nothing depends on how a batch is shared.
    """
    assert runpy.run_path(str(SCRIPT))["main"](kind, tmp_path / "1.json") == 0
    done = train_on_two(kind, tmp_path / "2.json")
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    state, shared_state = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert (one["notes"], two["notes"]) == ({}, notes)
    assert [record["phase"] for record in one["history"]] == ["head"] * 2 + ["finetune"] * 3
    for alone, shared in zip(one["history"], two["history"], strict=True):
        for key in ("phase", "epoch", "learning_rate", "val_accuracy"):
            assert alone[key] == shared[key]
        for key in ("train_loss", "val_loss"):
            assert shared[key] == pytest.approx(alone[key], abs=1e-4)
    for key, value in state.items():
        torch.testing.assert_close(shared_state[key], value, atol=1e-4, rtol=1e-3)


@on_cpus
@on_two_cores
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (
            "poisoned",
            "resnet50: the loss of epoch 1 (finetune), step 1, is nan: "
            "lower backbones.resnet50.finetune.learning_rate",
        ),
        (
            "full",
            "resnet50: out of memory: lower backbones.resnet50.image_size or head.batch_size",
        ),
    ],
)
def test_what_ends_one_process_ends_both(kind: str, says: str, tmp_path: Path) -> None:
    done = train_on_two(kind, tmp_path / "2.json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [(tmp_path / f"2.{rank}").read_text() for rank in (0, 1)] == [says, says]

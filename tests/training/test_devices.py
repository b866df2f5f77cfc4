"""Devices that can't be had are refused; those that can train as one does."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
import torch
from bench import Bench, small_network
from lightning_fabric import Fabric
from processes import WITHIN_S, wait_until
from torch import nn
from workspace import environment

from fer_pipeline.errors import TrainingError
from fer_pipeline.training.devices import choose_devices, convert_sync_batchnorm, most_devices
from fer_pipeline.training.phases import PhaseRun

SCRIPT = Path(__file__).with_name("shared_devices.py")
CORES = os.cpu_count() or 1

on_two_cores = pytest.mark.skipif(CORES < 2, reason="needs two CPU cores")
on_cpus = pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs come before CPU processes")


@on_cpus
def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(TrainingError) as refused:
        choose_devices(CORES + 1, {})
    assert str(refused.value) == (
        f"training.devices is {CORES + 1}, but there are no GPUs and only {CORES} CPU cores: "
        f"ask for fewer"
    )


def test_more_gpus_than_are_visible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError) as refused:
        choose_devices(3, {})
    assert str(refused.value) == (
        "training.devices is 3, but only 2 GPUs are visible: ask for fewer, or check "
        "CUDA_VISIBLE_DEVICES"
    )


@pytest.mark.parametrize(
    ("gpus", "batch_sizes", "count"),
    [
        (0, (8,), 1),
        (8, (), 8),
        (8, (64, 128), 8),
        (8, (8,), 4),  # two images for each
        (8, (64, 8), 4),
        (3, (64,), 2),
        (6, (96,), 6),
        (8, (7,), 1),
    ],
)
def test_auto_takes_the_most_gpus_that_can_share_every_batch(
    gpus: int, batch_sizes: tuple[int, ...], count: int
) -> None:
    assert most_devices(gpus, batch_sizes) == count


@on_cpus
def test_without_gpus_auto_is_one_process_on_the_cpu() -> None:
    fabric = choose_devices("auto", {})
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
    convert_sync_batchnorm(model, cast(Fabric, fabric))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == shared
    assert any(type(module) is nn.BatchNorm2d for module in model.modules()) != shared
    assert list(map(id, model.parameters())) == list(map(id, weights))
    assert list(model.state_dict()) == state


@dataclass(frozen=True)
class Shared:
    """What became of trainings on two processes: a launch costs more than they do."""

    folder: Path
    status: int
    errors: str


@pytest.fixture(scope="module")
def shared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    folder = tmp_path_factory.mktemp("shared")
    kinds, env = ("cached", "normed", "poisoned", "abandoned"), environment(folder, code=root)
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, "2", *kinds],
        env=env | {"PYTHONPATH": os.pathsep.join((env["PYTHONPATH"], str(SCRIPT.parents[1])))},
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    return Shared(folder, done.returncode, done.stderr)


@on_cpus
@on_two_cores
@pytest.mark.slow
def test_two_processes_train_as_one_does(shared: Shared, tmp_path: Path) -> None:
    """A network without batch norm, so that nothing depends on how a batch is shared."""
    assert runpy.run_path(str(SCRIPT))["main"](tmp_path, 1, "cached") == 0
    alone, both = tmp_path / "cached-1.json", shared.folder / "cached-2.json"
    assert both.exists(), shared.errors
    one, two = (json.loads(path.read_text()) for path in (alone, both))
    state, shared_state = (
        torch.load(path.with_suffix(".pt"), weights_only=True) for path in (alone, both)
    )
    assert (one["notes"], two["notes"]) == ({}, {})
    assert [record["phase"] for record in one["history"]] == ["head"] * 2 + ["finetune"] * 3
    for own, together in zip(one["history"], two["history"], strict=True):
        for key in ("phase", "epoch", "learning_rate", "val_accuracy"):
            assert own[key] == together[key]
        for key in ("train_loss", "val_loss"):
            assert together[key] == pytest.approx(own[key], abs=1e-4)
    for key, value in state.items():
        torch.testing.assert_close(shared_state[key], value, atol=1e-4, rtol=1e-3)


@on_cpus
@on_two_cores
@pytest.mark.slow
def test_where_each_normalises_its_share_the_figures_are_those_of_the_stored_weights(
    bench: Bench, shared: Shared
) -> None:
    out = shared.folder / "normed-2.json"
    assert out.exists(), shared.errors
    best = max(json.loads(out.read_text())["history"], key=lambda one: one["val_accuracy"])
    job = runpy.run_path(str(SCRIPT))["make_job"]("normed", bench.fabric)
    job.model.load_state_dict(torch.load(out.with_suffix(".pt"), weights_only=True))
    val_loss, val_accuracy = PhaseRun(job, "finetune", 1, "fp32", 14).validate()
    assert val_accuracy == pytest.approx(best["val_accuracy"])
    assert val_loss == pytest.approx(best["val_loss"], abs=1e-5)


@on_cpus
@on_two_cores
@pytest.mark.slow
def test_what_ends_one_process_ends_both(shared: Shared) -> None:
    assert "Traceback" not in shared.errors
    found = [(shared.folder / f"poisoned-2.{rank}").read_text() for rank in (0, 1)]
    says = (
        "resnet50: the loss of epoch 1 (finetune), step 1, is nan: "
        "lower backbones.resnet50.finetune.learning_rate"
    )
    assert found == [says, says]


@on_cpus
@on_two_cores
@pytest.mark.slow
def test_no_process_outlives_the_first(shared: Shared) -> None:
    assert shared.status == 1, shared.errors
    other = int((shared.folder / "abandoned.pid").read_text())
    wait_until(lambda: not psutil.pid_exists(other), what=f"process {other} is gone")


def test_a_gpu_whose_driver_is_too_old_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(TrainingError) as refused:
        choose_devices("auto", {})
    assert str(refused.value) == (
        "the GPU can't be used (The NVIDIA driver on your system is too old (found version "
        "11040).): update its driver, or train on the CPU with CUDA_VISIBLE_DEVICES=''"
    )

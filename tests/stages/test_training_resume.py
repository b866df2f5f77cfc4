"""Stage `train`, killed at random moments and run again, ends as an undisturbed one does."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from workspace import Workspace, environment

TRAIN = (sys.executable, "-m", "fer_pipeline.stages.train", "resnet50")
EPOCHS = 8  # half of each phase


@pytest.fixture(scope="module")
def prepared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A folder in which only training is left to do; every draw of a training is in its params."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("params.yaml", "data/source.lock.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(root / name, folder / name)
    workspace = Workspace(folder, environment(folder, code=root) | {"PYTHONUNBUFFERED": "1"})
    phase = {"epochs": EPOCHS // 2, "batch_size": 14, "learning_rate": 1e-3}
    workspace.edit_params(
        data__sample={"train": 28, "val": 14, "test": 14, "seed": 0},
        backbones={
            "resnet50": {
                "weights": "none",
                "image_size": 32,
                "eval_resize": 32,
                "auxiliary_weight": 0.0,
                "head": phase | {"batch_size": 7, "cached_views": 1},
                "finetune": phase,
            }
        },
        training__ema_decay=0.9,
        training__dropout=0.2,
        training__mixup=0.2,
        training__schedule="cosine",
    )
    for stage in ("ingest", "prepare"):
        workspace.check(sys.executable, "-m", f"fer_pipeline.stages.{stage}")
    return workspace


@pytest.fixture
def workspace(prepared: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(prepared.folder, tmp_path, dirs_exist_ok=True)
    return Workspace(tmp_path, prepared.env)


def kill_after(workspace: Workspace, epochs: int, seconds: float) -> tuple[str, bool]:
    """Start the stage, and kill it some time after it has done so many epochs more.

    With 0 epochs the time runs from the start of training. Gives what the stage said, and whether
    it was still at work when it was killed.
    """
    mark = rf"resnet50 \w+ +\d/{EPOCHS} " if epochs else "resnet50 on 1 x"
    process = subprocess.Popen(
        TRAIN, cwd=workspace.folder, env=workspace.env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said, left = "", max(epochs, 1)
    for line in process.stdout:
        said += line
        left -= bool(re.match(mark, line))
        if not left:
            time.sleep(seconds)
            break
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    return said + rest, process.returncode == -signal.SIGKILL


def checkpoints(workspace: Workspace) -> list[Path]:
    return list((workspace.folder / "checkpoints").rglob("*.pt"))


def digest(workspace: Workspace) -> str:
    weights = workspace.folder / "models/resnet50/model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def runs(workspace: Workspace) -> list[Run]:
    store = MlflowClient(f"sqlite:///{workspace.folder / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("fer2013")
    return store.search_runs([experiment.experiment_id])


def logged_epochs(workspace: Workspace, run: Run) -> dict[int, float]:
    store = MlflowClient(f"sqlite:///{workspace.folder / 'mlflow.db'}")
    history = store.get_metric_history(run.info.run_id, "val_accuracy")
    return {metric.step: metric.value for metric in history}


def curve(workspace: Workspace) -> list[dict[str, str]]:
    with (workspace.folder / "plots/curves/resnet50.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again_it_ends_with_the_same_bits(
    workspace: Workspace, prepared: Workspace, tmp_path: Path
) -> None:
    undisturbed = Workspace(tmp_path / "undisturbed", prepared.env)
    shutil.copytree(prepared.folder, undisturbed.folder)
    undisturbed.check(*TRAIN)
    moment = random.Random(os.getpid())
    for kill, epochs in enumerate((0, 1, 1)):
        seconds = moment.uniform(0.0, 0.8)
        going_on = bool(checkpoints(workspace))
        said, killed = kill_after(workspace, epochs, seconds)
        print(f"killed {seconds:.2f} s after {epochs} more epochs:\n{said}")
        assert killed or kill > 0  # a fast machine may be done by then
        if epochs:
            assert ("going on after epoch" in said) == going_on
        assert sum(path.name.startswith(".partial-") for path in checkpoints(workspace)) <= 1
    workspace.check(*TRAIN)

    assert digest(workspace) == digest(undisturbed)
    for name in ("plots/curves/resnet50.csv", "metrics/train/resnet50.json"):
        assert (workspace.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()
    assert not (workspace.folder / "checkpoints/resnet50").exists()
    assert not (undisturbed.folder / "checkpoints/resnet50").exists()
    (run,) = runs(workspace)
    assert run.info.status == "FINISHED"
    accuracies = {int(row["epoch"]): float(row["val_accuracy"]) for row in curve(workspace)}
    assert logged_epochs(workspace, run) == pytest.approx(accuracies)
    assert run.data.metrics["best_val_accuracy"] == pytest.approx(max(accuracies.values()))


@pytest.mark.slow
def test_checkpoints_of_other_params_are_not_used(workspace: Workspace) -> None:
    kill_after(workspace, 1, 0.0)
    (before,) = (workspace.folder / "checkpoints/resnet50").iterdir()
    workspace.edit_params(training__weight_decay=0.01)
    said, _ = kill_after(workspace, 1, 0.0)
    assert "going on" not in said
    (after,) = (workspace.folder / "checkpoints/resnet50").iterdir()
    assert after != before

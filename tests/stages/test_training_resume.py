"""Stage `train`, killed at random moments and run again, ends as an undisturbed one does."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from processes import wait_until
from s3_server import S3Server
from workspace import TRAIN, InProcess, TrainHere, Workspace, copy_workspace, tiny_backbone

from fer_pipeline.stages.copies import VARIABLE

pytestmark = pytest.mark.slow

COPIES = "s3://fer/lab"
EPOCHS = 4  # half of each phase


@pytest.fixture(scope="module")
def ready(prepared_once: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A folder in which only training is left to do; every draw of a training is in its params."""
    workspace = copy_workspace(prepared_once, tmp_path_factory.mktemp("ready"))
    phase = {"epochs": EPOCHS // 2, "batch_size": 14, "learning_rate": 1e-3}
    workspace.edit_params(
        backbones={"resnet50": tiny_backbone(phase | {"batch_size": 7, "cached_views": 1}, phase)},
        training__ema_decay=0.9,
        training__dropout=0.2,
        training__mixup=0.2,
        training__schedule="cosine",
    )
    return workspace


@pytest.fixture(scope="module")
def undisturbed(ready: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same after a training that nothing disturbed."""
    copy = copy_workspace(ready, tmp_path_factory.mktemp("undisturbed"))
    store = f"sqlite:///{copy.folder / 'mlflow.db'}"
    workspace = InProcess(copy.folder, copy.env | {"MLFLOW_TRACKING_URI": store})
    workspace.check(*TRAIN)
    return workspace


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def killed(
    ready: Workspace, bucket: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Workspace]:
    """The same after two kills, one from the start of training and one after an epoch more.

    Its checkpoints have copies in the bucket. And a copy of the folder; but an MLflow run is
    continued only in the folder where it was begun.
    """
    workspace = copy_workspace(ready, tmp_path_factory.mktemp("killed"))
    workspace.env.update(bucket.env() | {VARIABLE: COPIES})
    seed = int(os.environ.get("KILL_SEED", os.getpid()))
    print(f"to repeat these kills: KILL_SEED={seed}")
    moment = random.Random(seed)
    for epochs in (0, 1):
        seconds = moment.uniform(0.0, 0.4)
        going_on = bool(checkpoints(workspace))
        said = kill_after(workspace, epochs, seconds, bucket)
        print(f"killed {seconds:.2f} s after {epochs} more epochs:\n{said}")
        if epochs:
            assert ("going on after epoch" in said) == going_on
        assert sum(path.name.startswith(".partial-") for path in checkpoints(workspace)) <= 1
    return workspace, copy_workspace(workspace, tmp_path_factory.mktemp("copy"))


def kill_after(workspace: Workspace, epochs: int, seconds: float, bucket: S3Server) -> str:
    """Start the stage, and kill it some time after it has done so many epochs more.

    With 0 epochs the time runs from the start of training, else from the first copy of a
    checkpoint in the bucket. Gives what the stage said.
    """
    mark = rf"resnet50 \w+ +\d/{EPOCHS} " if epochs else "resnet50 on 1 x"
    process = subprocess.Popen(
        TRAIN,
        cwd=workspace.folder,
        env=workspace.env | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said, left = "", max(epochs, 1)
    for line in process.stdout:
        said += line
        left -= bool(re.match(mark, line))
        if not left:
            if epochs:
                wait_until(bucket.stored, "a copy of a checkpoint")
            time.sleep(seconds)
            break
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
    return said + rest


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


def test_killed_at_random_moments_and_run_again_it_ends_with_the_same_bits(
    killed: tuple[Workspace, Workspace],
    undisturbed: Workspace,
    train_here: TrainHere,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace, _ = killed
    with caplog.at_level(logging.INFO, "fer_pipeline"):
        done = train_here(workspace)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in caplog.text
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


def test_killed_in_one_folder_it_goes_on_in_another_from_the_bucket(
    killed: tuple[Workspace, Workspace],
    undisturbed: Workspace,
    ready: Workspace,
    bucket: S3Server,
    tmp_path: Path,
    train_here: TrainHere,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = copy_workspace(ready, tmp_path / "other machine")
    named = r"lab/resnet50/[0-9a-f]{16}/epoch-\d{5}-[0-9a-f]{16}\.pt"
    assert {bool(re.fullmatch(named, copy)) for copy in bucket.stored()} == {True}
    with caplog.at_level(logging.INFO, "fer_pipeline"):
        done = train_here(other, **bucket.env(), **{VARIABLE: COPIES})
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in caplog.text
    assert digest(other) == digest(undisturbed)
    assert not bucket.stored()


def test_checkpoints_of_other_params_are_not_used_and_a_failing_mlflow_costs_no_epoch(
    killed: tuple[Workspace, Workspace],
    train_here: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise MlflowException("the disk is full")

    _, workspace = killed
    assert checkpoints(workspace)
    workspace.edit_params(training__weight_decay=0.01)
    with caplog.at_level(logging.INFO, "fer_pipeline"), monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", fail)  # when all is done
        done = train_here(workspace)
    assert (done.returncode, "the disk is full" in done.stderr) == (1, True)
    assert "resnet50 on 1 x cpu" in caplog.messages
    assert "going on" not in caplog.text
    assert epochs_said(done) == [str(epoch + 1) for epoch in range(EPOCHS)]
    assert checkpoints(workspace)
    with caplog.at_level(logging.INFO, "fer_pipeline"):
        done = train_here(workspace)
    assert done.returncode == 0, done.stderr
    assert f"resnet50: going on after epoch {EPOCHS}" in caplog.messages
    assert epochs_said(done) == []
    assert not checkpoints(workspace)


def epochs_said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(rf"^resnet50 \w+ +(\d)/{EPOCHS} ", done.stdout, re.MULTILINE)

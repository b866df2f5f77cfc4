"""What people, the log and a listener see of a training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from fer_pipeline.events import VARIABLE, Listener
from fer_pipeline.registry.runs import RunLog, open_run
from fer_pipeline.registry.tracking import connect
from fer_pipeline.stages import progress
from fer_pipeline.stages.progress import Bar, TrainingProgress
from fer_pipeline.training.history import EpochRecord

FIRST = EpochRecord(1, "head", 1e-3, 1.9, 1.8, 0.25, 120.0, 3.5)
SECOND = EpochRecord(2, "finetune", 1e-4, 1.7, 1.6, 0.5, 60.0, 7.0)


@pytest.fixture
def run(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunLog]:
    shutil.copy(empty_database, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with open_run(connect("fer2013"), "resnet50", {}) as run:
        yield run


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events.jsonl"))
    return Listener(tmp_path / "events.jsonl")


def best_so_far(run: RunLog) -> list[tuple[int, float]]:
    history = run.client.get_metric_history(run.run_id, "best_val_accuracy")
    return [(metric.step, metric.value) for metric in history]


def test_each_epoch_is_told_printed_and_logged(
    run: RunLog, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar() as bar:
        training = TrainingProgress(bar, run, "resnet50")
        training.epoch_started("head", 1, 4, images=28)
        training.batch_done(28)
        assert listener.read() == []
        training.epoch_done(FIRST)
        assert listener.read() == [
            {"event": "epoch", "backbone": "resnet50", "epochs": 4} | asdict(FIRST)
        ]
        training.epoch_started("finetune", 2, 4, images=28)
        training.epoch_done(SECOND)
        (event,) = listener.read()
        assert (event["phase"], event["epoch"], event["epochs"]) == ("finetune", 2, 4)
    assert best_so_far(run) == [(1, 0.25), (2, 0.5)]
    assert capsys.readouterr().out.splitlines() == [
        "resnet50 head       1/4  loss 1.900  val 25.00%    120.0 images/s",
        "resnet50 finetune   2/4  loss 1.700  val 50.00%     60.0 images/s",
    ]


def test_where_a_bar_cannot_be_drawn_a_line_now_and_then_says_how_far_it_is(
    run: RunLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar() as bar:
        training = TrainingProgress(bar, run, "resnet50")
        training.epoch_started("head", 1, 4, images=56)
        training.batch_done(14)
        assert capsys.readouterr().out == ""  # not at each batch
        monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
        training.batch_done(14)
    assert capsys.readouterr().out.startswith("resnet50 head 1/4  28/56  ")
    with progress.bytes_bar("https://example.org/fer2013.csv") as advance:
        advance(1_000_000, 4_000_000)
    line = capsys.readouterr().out
    assert line.startswith("https://example.org/fer2013.csv  1.0/4.0 MB  ")
    assert line.count("\n") == 1


def test_epochs_of_a_killed_process_are_logged_but_not_told_again(
    run: RunLog, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar() as bar:
        TrainingProgress(bar, run, "resnet50").resumed([FIRST])
    assert best_so_far(run) == [(1, 0.25)]
    assert listener.read() == []
    assert capsys.readouterr().out == ""


def test_what_a_training_decides_is_a_tag_of_its_run(run: RunLog) -> None:
    with Bar() as bar:
        TrainingProgress(bar, run, "resnet50").noted("precision", "bf16")
    assert run.client.get_run(run.run_id).data.tags["fer.precision"] == "bf16"

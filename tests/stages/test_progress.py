"""What people, the log and a listener see of a training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from fer_pipeline.events import VARIABLE, Listener
from fer_pipeline.stages.progress import TrainingProgress
from fer_pipeline.training.history import EpochRecord

FIRST = EpochRecord(1, "head", 1e-3, 1.9, 1.8, 0.25, 120.0, 3.5)
SECOND = EpochRecord(2, "finetune", 1e-4, 1.7, 1.6, 0.5, 60.0, 7.0)


def test_each_epoch_is_told_printed_and_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events.jsonl"))
    listener = Listener(tmp_path / "events.jsonl")
    seen: list[EpochRecord] = []
    with TrainingProgress("resnet50", seen.append, lambda *_: None) as progress:
        progress.epoch_started("head", 1, 4, images=28)
        progress.batch_done(28)
        assert listener.read() == []
        progress.epoch_done(FIRST)
        assert listener.read() == [
            {"event": "epoch", "backbone": "resnet50", "epochs": 4} | asdict(FIRST)
        ]
        progress.epoch_started("finetune", 2, 4, images=28)
        progress.epoch_done(SECOND)
        (event,) = listener.read()
        assert (event["phase"], event["epoch"], event["epochs"]) == ("finetune", 2, 4)
    assert seen == [FIRST, SECOND]
    assert capsys.readouterr().out.splitlines() == [
        "resnet50 head       1/4  loss 1.900  val 25.00%    120.0 images/s",
        "resnet50 finetune   2/4  loss 1.700  val 50.00%     60.0 images/s",
    ]


def test_epochs_of_a_killed_process_are_logged_but_not_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events.jsonl"))
    seen: list[EpochRecord] = []
    with TrainingProgress("resnet50", seen.append, lambda *_: None) as progress:
        progress.resumed([FIRST])
    assert seen == [FIRST]
    assert Listener(tmp_path / "events.jsonl").read() == []
    assert capsys.readouterr().out == ""


def test_notes_are_handed_on() -> None:
    notes: list[tuple[str, str]] = []
    with TrainingProgress("resnet50", print, lambda *note: notes.append(note)) as progress:
        progress.noted("precision", "bf16")
    assert notes == [("precision", "bf16")]

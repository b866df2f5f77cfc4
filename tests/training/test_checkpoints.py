"""Checkpoints on a real disk: whole or not there, damaged ones known, others' not seen."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import wait_until

from fer_pipeline.errors import TrainingError
from fer_pipeline.training.checkpoints import Checkpoints

WRITER = """
import sys
from pathlib import Path
import torch
from fer_pipeline.training.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), "key")
for epoch in range(1, 1000):
    checkpoints.save(epoch, {"epoch": epoch, "weight": torch.full((2_000_000,), float(epoch))})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "resnet50"


@pytest.fixture
def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder, "key")


def test_what_changes_after_it_was_saved_is_saved_as_it_was(checkpoints: Checkpoints) -> None:
    weight, steps = torch.zeros(1_000_000), [1]
    checkpoints.save(1, {"weight": weight, "groups": [{"steps": steps, "rate": weight}]})
    weight.fill_(1.0)
    steps.append(2)
    found = checkpoints.load()
    assert found is not None
    assert not found["weight"].any()
    assert found["groups"][0]["steps"] == [1]
    assert not found["groups"][0]["rate"].any()


def test_one_is_due_after_its_seconds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    checkpoints = Checkpoints(folder, "key", every_s=30.0)
    assert Checkpoints(folder, "key").due()
    found = []
    for seconds in (0.0, 29.0, 2.0, 29.0, 2.0):
        now += seconds
        found.append(checkpoints.due())
        if found[-1]:
            checkpoints.save(1, {})
    assert found == [False, False, True, False, True]


def test_the_last_is_on_the_disk_when_it_is_finished_and_written_once(
    checkpoints: Checkpoints, folder: Path
) -> None:
    checkpoints.finish(3, {"epoch": 3})
    (path,) = files(folder)
    written = path.stat().st_mtime_ns
    checkpoints.finish(3, {"epoch": 3})
    assert path.stat().st_mtime_ns == written


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_state_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {"weight": weight, "rate": 0.1 + 0.2, "name": "adam", "average": None, "steps": [1, 2]}
    checkpoints.save(1, state)
    found = checkpoints.load()
    assert found is not None
    assert torch.equal(found["weight"], weight)
    assert found["weight"].is_contiguous(memory_format=torch.channels_last)
    assert {**found, "weight": None} == {**state, "weight": None}


def test_where_there_is_none_there_is_none(checkpoints: Checkpoints, folder: Path) -> None:
    assert checkpoints.load() is None
    assert not folder.exists()


def test_the_newest_is_loaded_and_two_are_kept(checkpoints: Checkpoints, folder: Path) -> None:
    for epoch in (8, 9, 10, 11):
        checkpoints.finish(epoch, {"epoch": epoch})
    assert checkpoints.load() == {"epoch": 11}
    assert [path.name[:11] for path in files(folder)] == ["epoch-00010", "epoch-00011"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_one_is_reported_and_the_one_before_it_used(
    damage: str, checkpoints: Checkpoints, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in (1, 2):
        checkpoints.finish(epoch, {"epoch": epoch})
    newest = files(folder)[-1]
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-1], "flipped": content, "emptied": b""}[damage])
    assert checkpoints.load() == {"epoch": 1}
    assert caplog.messages == [f"checkpoint {newest} is damaged: the one before it is used"]
    assert len(files(folder)) == 1
    checkpoints.save(2, {"epoch": 2})
    assert checkpoints.load() == {"epoch": 2}


def test_where_all_are_damaged_training_starts_anew(checkpoints: Checkpoints, folder: Path) -> None:
    for epoch in (1, 2):
        checkpoints.finish(epoch, {"epoch": epoch})
    for path in files(folder):
        path.write_bytes(b"")
    assert checkpoints.load() is None


def test_another_keys_are_not_seen_and_go_with_the_first_that_is_written(
    checkpoints: Checkpoints, folder: Path
) -> None:
    checkpoints.save(5, {"epoch": 5})
    other = Checkpoints(folder, "other")
    assert other.load() is None
    assert checkpoints.load() == {"epoch": 5}
    other.finish(1, {"epoch": 1})
    assert other.load() == {"epoch": 1}
    assert checkpoints.load() is None
    assert [path.name for path in folder.iterdir()] == ["other"]


def test_another_backbones_are_left_alone(tmp_path: Path) -> None:
    one, other = (Checkpoints(tmp_path / name, "key") for name in ("one", "other"))
    one.save(1, {"epoch": 1})
    other.save(2, {"epoch": 2})
    other.clear()
    assert one.load() == {"epoch": 1}
    assert not (tmp_path / "other").exists()


def test_what_is_cleared_is_gone_and_clearing_nothing_is_no_error(
    checkpoints: Checkpoints, folder: Path
) -> None:
    checkpoints.clear()
    checkpoints.save(1, {"epoch": 1})
    checkpoints.clear()
    assert checkpoints.load() is None
    assert not folder.exists()


def test_a_file_that_is_half_written_is_ignored_and_goes_with_the_next(
    checkpoints: Checkpoints, folder: Path
) -> None:
    checkpoints.finish(1, {"epoch": 1})
    for name in (".partial-epoch-00002-0123456789abcdef.pt", ".partial-epoch-00002-cafe.pt"):
        (folder / "key" / name).write_bytes(b"PK")
    assert checkpoints.load() == {"epoch": 1}
    checkpoints.finish(2, {"epoch": 2})
    assert not list(folder.rglob(".partial-*"))


def test_a_folder_that_cannot_be_written_is_said_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(TrainingError) as refused:
        Checkpoints(tmp_path / "taken", "key").finish(1, {"epoch": 1})
    assert str(refused.value).startswith(f"{tmp_path / 'taken'}/key/epoch-00001-")
    assert str(refused.value).endswith(
        "(Not a directory): look at its folder, then run the same again"
    )


@pytest.mark.slow
def test_a_kill_while_writing_leaves_whole_checkpoints_and_at_most_one_partial(
    checkpoints: Checkpoints, folder: Path
) -> None:
    """The writer does nothing but write files of 8 MB."""
    moment = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
        wait_until(checkpoints.load, "a checkpoint")
        time.sleep(moment.uniform(0.0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = checkpoints.load()
        assert found is not None
        assert torch.equal(found["weight"], torch.full((2_000_000,), float(found["epoch"])))
        left = [path.name.startswith(".partial-") for path in files(folder)]
        assert sum(left) <= 1
        assert left.count(False) in (1, 2, 3)  # a third until the oldest is deleted
        checkpoints.clear()

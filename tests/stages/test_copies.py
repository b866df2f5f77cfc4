"""Copies of checkpoints in a bucket of a real S3 server, which is also away for a while."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import wait_until
from s3_server import S3Server

from fer_pipeline.errors import TrainingError
from fer_pipeline.stages.copies import VARIABLE, open_copies
from fer_pipeline.training import checkpoints as module
from fer_pipeline.training.checkpoints import Checkpoints

OWN = "lab/resnet50/key/"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server as the environment says, its bucket empty, and copies made at once."""
    for name, value in {**running.env(), VARIABLE: "s3://fer/lab/"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "COPY_EVERY_S", 0.0)
    monkeypatch.setattr(module, "ASK_AGAIN_AFTER_S", (0.01,))
    yield running
    for key in running.stored():
        running.ask("delete_object", Key=key)


def epochs(server: S3Server) -> list[int]:
    return [
        int(found[1]) for key in server.stored() if (found := re.match(OWN + r"epoch-(\d+)", key))
    ]


def checkpoints(folder: Path, key: str = "key") -> Checkpoints:
    return Checkpoints(folder / "resnet50", key, copies=open_copies(f"resnet50/{key}"))


def save(here: Checkpoints, server: S3Server, *numbers: int) -> None:
    """Save these epochs, and wait until each has its copy."""
    for number in numbers:
        save_until(lambda: number in epochs(server), here, number)  # noqa: B023


def save_until(happened: Callable[[], bool], here: Checkpoints, number: int) -> None:
    """Save an epoch again and again: none is copied while another copy is on its way."""

    def has_happened() -> bool:
        here.save(number, {"epoch": number})
        here.wait()
        return happened()

    wait_until(has_happened, f"what epoch {number} waits for")


@pytest.mark.slow
def test_the_newest_two_are_kept_and_another_folder_goes_on_from_the_newest(
    server: S3Server, tmp_path: Path
) -> None:
    here = checkpoints(tmp_path / "here")
    save(here, server, 8, 9, 10, 11)
    wait_until(lambda: epochs(server) == [10, 11], "two are kept")
    there = checkpoints(tmp_path / "there")
    assert there.load() == {"epoch": 11}
    # A second device of that machine finds it without asking the bucket.
    assert Checkpoints(tmp_path / "there/resnet50", "key").load() == {"epoch": 11}
    save(there, server, 12)
    assert here.load() == {"epoch": 12}  # what lies here is older
    here.finish(13, {"epoch": 13})
    assert here.load() == {"epoch": 13}


@pytest.mark.slow
def test_one_is_copied_a_minute_at_most(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COPY_EVERY_S", 60.0)
    here = checkpoints(tmp_path)
    save(here, server, 1)
    for number in (2, 3):
        here.finish(number, {"epoch": number})
    monkeypatch.setattr(module, "COPY_EVERY_S", 0.0)
    save(here, server, 4)
    assert epochs(server) == [1, 4]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half of it"])
def test_a_damaged_copy_is_deleted_and_the_one_before_it_used(
    damage: bytes, server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoints(tmp_path / "here"), server, 1)
    for name in ("epoch-00002-0123456789abcdef.pt", "epoch-00003-of-somebody.pt", "notes.txt"):
        server.ask("put_object", Key=OWN + name, Body=damage)
    assert checkpoints(tmp_path / "there").load() == {"epoch": 1}
    (message,) = caplog.messages
    assert message.startswith("the copy of checkpoint epoch-00002-0123456789abcdef.pt is damaged")
    assert epochs(server) == [1, 3]


@pytest.mark.slow
def test_a_store_that_is_away_ends_no_training_and_has_the_next_copy(
    server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = checkpoints(tmp_path)
    save(here, server, 1)
    server.kill()
    for number in (2, 3, 4):
        save_until(lambda: "no copy of the checkpoint" in caplog.text, here, number)
    assert here.load() == {"epoch": 4}
    begun = checkpoints(tmp_path / "begun")  # a training that begins now
    assert begun.load() is None
    checkpoints(tmp_path / "done").clear()
    server.start()
    save(here, server, 5)
    assert here.load() == {"epoch": 5}
    assert caplog.text.count("no copy of the checkpoint: s3://fer/lab/resnet50/key/ can't be") == 1
    assert caplog.text.count("copies of checkpoints are not used") == 2
    assert "copies of checkpoints that nobody needs any more stay: s3://fer/lab" in caplog.text
    assert begun.load() == {"epoch": 5}


@pytest.mark.slow
def test_what_is_done_is_deleted_and_nothing_of_other_trainings(
    server: S3Server, tmp_path: Path
) -> None:
    others = ["lab/resnet50/key2/epoch-00001-0.pt", "lab/resnet101/key/epoch-00001-0.pt"]
    for other in others:
        server.ask("put_object", Key=other, Body=b"")
    here = checkpoints(tmp_path)
    save(here, server, 1, 2)
    here.finish(3, {"epoch": 3})  # its copy may be on its way
    here.clear()
    assert server.stored() == sorted(others)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({VARIABLE: "s3://no-such-bucket/x"}, "no such bucket: check its name and AWS_ENDPOINT"),
        ({"AWS_SECRET_ACCESS_KEY": "5ec2e7"}, "is refused .*: check AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "me:5ec2e7@nowhere"}, "AWS_ENDPOINT_URL is no address"),
    ],
)
def test_a_store_that_refuses_is_named_before_any_training(
    wrong: dict[str, str], message: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=f"^FER_CHECKPOINTS: .*{message}") as raised:
        open_copies("resnet50/key")
    assert "5ec2e7" not in str(raised.value)


@pytest.mark.parametrize(
    "address", ["bucket/prefix", "/mnt/share", "s3://", "s3://a b/c", "s3://AKIA:5ec2e7@bucket/x"]
)
def test_an_address_that_is_none_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, address)
    with pytest.raises(TrainingError, match="write it as s3://bucket/prefix") as raised:
        open_copies("resnet50/key")
    assert "5ec2e7" not in str(raised.value)


def test_nothing_is_copied_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, VARIABLE, "")
    assert open_copies("resnet50/key") is None

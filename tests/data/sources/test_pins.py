"""A pin comes back as it was written; a lock file that is none is refused with what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fer_pipeline.data.profile import BRIGHTNESS_MIDDLES, CONTRAST_MIDDLES, Profile
from fer_pipeline.data.sources.pins import Earlier, FilePin, Pin, read_pin, write_pin
from fer_pipeline.data.sources.sample import SAMPLE_VERSION
from fer_pipeline.errors import DataError

PROFILE = Profile(
    "fer",
    (3995, 436, 4097, 7215, 4830, 3171, 4965),
    (28709,) + (0,) * (len(BRIGHTNESS_MIDDLES) - 1),
    (0,) * (len(CONTRAST_MIDDLES) - 1) + (28709,),
)
FACES = FilePin("s3://faces/fer2013.csv", "3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY", 301072766, "ab" * 32)
VOTES = FilePin("https://data.example/fer2013new.csv", '"5f-e"', 1800000, "cd" * 32)
SAMPLE = Pin(FilePin("sample", SAMPLE_VERSION, 0, ""), None, None, None)
FULL = Pin(FACES, VOTES, PROFILE, Earlier(replace(FACES, sha256="ef" * 32), PROFILE))

GOOD = """\
source: {uri: fer2013.csv, version: '', size: 3, sha256: 'ab'}
ferplus:
profile:
previous:
"""


@pytest.mark.parametrize("pin", [SAMPLE, FULL, replace(FULL, ferplus=None, previous=None)])
def test_a_written_pin_is_read_back(pin: Pin, tmp_path: Path) -> None:
    path = tmp_path / "data" / "source.lock.yaml"
    write_pin(pin, path)
    assert read_pin(path) == pin
    assert [file.name for file in path.parent.iterdir()] == ["source.lock.yaml"]


def test_a_lock_is_short_enough_to_be_read_in_a_diff(tmp_path: Path) -> None:
    path = tmp_path / "source.lock.yaml"
    write_pin(FULL, path)
    lines = path.read_text().splitlines()
    assert "  classes: [3995, 436, 4097, 7215, 4830, 3171, 4965]" in lines
    assert len(lines) == 26
    assert lines == [line.rstrip() for line in lines]


def test_the_command_takes_the_votes_along() -> None:
    assert SAMPLE.command == "fer source pin sample"
    assert FULL.command == f"fer source pin {FACES.uri} --ferplus {VOTES.uri}"


def test_a_missing_lock_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "source.lock.yaml"
    with pytest.raises(DataError) as refused:
        read_pin(path)
    assert (
        str(refused.value) == f"{path} is missing: run 'fer source pin URI' in the project's folder"
    )


def refusal(path: Path) -> str:
    """Why a lock is refused, after the form of the message is checked."""
    with pytest.raises(DataError) as refused:
        read_pin(path)
    message = str(refused.value)
    start, end = f"{path} is no source lock (", "): delete it and run 'fer source pin URI'"
    assert message.startswith(start)
    assert message.endswith(end)
    assert "\n" not in message
    return message.removeprefix(start).removesuffix(end)


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("ferplus:\n", "", "ferplus: Field required"),
        (", size: 3", "", "source.size: Field required"),
        ("size: 3", "size: big", "source.size: Input should be a valid integer"),
        ("version: ''", "version: 1", "source.version: Input should be a valid string"),
        ("profile:", "profile: {labels: fer}", "profile.classes: Field required"),
    ],
)
def test_the_key_that_is_wrong_is_named(right: str, wrong: str, says: str, tmp_path: Path) -> None:
    assert right in GOOD
    path = tmp_path / "source.lock.yaml"
    path.write_text(GOOD.replace(right, wrong))
    assert refusal(path).startswith(says)


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("436, ", "", "a profile has (7, 65, 32) counts, not (6, 65, 32)"),
        ("436, ", "437, ", "a profile counts the same images three times, not (28710, 28709, 28"),
        ("436", "many", "Input should be a valid integer"),
    ],
)
def test_counts_that_are_no_profile_are_refused(
    right: str, wrong: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "source.lock.yaml"
    write_pin(replace(FULL, previous=None), path)
    path.write_text(path.read_text().replace(right, wrong))
    assert says in refusal(path)
    assert refusal(path).startswith("profile")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- sample\n",
        b"<<<<<<< HEAD\n" + GOOD.encode() + b"=======\n" + GOOD.encode() + b">>>>>>> other\n",
        GOOD.replace("fer2013", "gr\xfc\xdfe").encode("latin-1"),
        GOOD.replace("version: ''", "version: 2024-13-45").encode(),
        GOOD.replace("size: 3", "size: !!python/name:os.system").encode(),
    ],
    ids=["empty", "list", "merge conflict", "not UTF-8", "no date", "foreign tag"],
)
def test_a_file_that_is_no_lock_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "source.lock.yaml"
    path.write_bytes(content)
    assert refusal(path)
    assert "Is a directory" in refusal(tmp_path)

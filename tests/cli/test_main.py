"""What `fer` says where a command can't work: outside a project, before a run, during one."""

from __future__ import annotations

import io
import shutil
from importlib import metadata
from pathlib import Path

import pytest
from edition_files import encode, random_faces
from fer_command import run_fer
from filelock import FileLock

from fer_pipeline import repair


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = metadata.version("fer-fusion")
    assert run_fer(monkeypatch, capsys, "--version") == (0, f"fer-fusion {version}\n", "")


def test_what_the_terminals_encoding_lacks_ends_no_command(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(root / "params.yaml", "–.yaml")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", terminal)
    assert run_fer(monkeypatch, capsys, "check", "–.yaml")[0] == 0
    terminal.seek(0)
    assert terminal.read().startswith("?.yaml is valid: ")


@pytest.mark.parametrize("command", ["accept", "repair", "source status", "registry register"])
def test_outside_a_project_a_command_asks_for_its_folder(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fer(monkeypatch, capsys, *command.split()) == (
        1,
        "",
        "error: dvc.yaml is missing: run this in the project's folder\n",
    )


def test_where_nothing_is_torn_there_is_nothing_to_repair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dvc.yaml").touch()
    assert run_fer(monkeypatch, capsys, "repair") == (0, "nothing to repair\n", "")


def test_an_export_outside_a_project_asks_for_its_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run_fer(monkeypatch, capsys, "export")
    assert status == 1
    assert err.startswith("error: params.yaml is missing: run this in the project's folder")


@pytest.mark.parametrize("command", ["export", "predict a.png"])
def test_before_the_first_run_a_command_asks_for_a_whole_one(
    command: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(root / "params.yaml", ".")
    Path("a.png").write_bytes(encode(random_faces().pixels[0]))
    status, _, err = run_fer(monkeypatch, capsys, *command.split())
    assert status == 1
    assert err == "error: models/resnet50/model.safetensors is missing: run 'dvc repro'\n"


@pytest.mark.parametrize("command", ["accept", "registry register"])
def test_while_dvc_works_a_command_says_so(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(repair, "_LOCK_TIMEOUT_S", 0.1)
    Path("dvc.yaml").touch()
    Path(".dvc/tmp").mkdir(parents=True)
    Path(".dvc/tmp/rwlock").write_text("{}")
    with FileLock(".dvc/tmp/lock", is_singleton=False):
        assert run_fer(monkeypatch, capsys, *command.split()) == (
            1,
            "",
            f"error: a DVC command runs in {tmp_path}: wait until it has ended\n",
        )

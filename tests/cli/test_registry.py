"""`fer registry` as a person and as a program meets it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fer_command import run_fer
from fused_model import NAME, draw_test_split, make_version

from fer_pipeline.registry import promote as promote_module
from fer_pipeline.registry.aliases import read_aliases, set_challenger
from fer_pipeline.registry.tracking import Tracking, connect

Fer = Callable[..., tuple[int, str, str]]
SPLIT = draw_test_split(images=40)


@pytest.fixture
def fer(
    root: Path,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Fer:
    """Run a command in a folder with params and a store of its own: exit status, out, err."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copy(empty_database, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(promote_module, "check_version", lambda *_: "not looked at")

    def run(*arguments: str) -> tuple[int, str, str]:
        return run_fer(monkeypatch, capsys, "registry", *arguments)

    return run


@pytest.fixture
def store(fer: Fer, tmp_path: Path) -> Tracking:
    """Three versions, the second the best; the first is challenger."""
    store = connect("fer2013")
    store.client.create_registered_model(NAME)
    for number, wrong in enumerate((9, 2, 6), start=1):
        folder = tmp_path / "versions" / str(number)
        make_version(store, folder, NAME, list(range(wrong)), SPLIT, accuracy=str(1 - wrong / 40))
    set_challenger(store, NAME, "1")
    return store


def test_an_empty_registry_has_a_status_and_no_history(fer: Fer) -> None:
    status, out, _ = fer("status", "--json")
    assert status == 0
    assert json.loads(out) == {
        "model_name": NAME,
        "champion": None,
        "challenger": None,
        "previous": None,
        "decision": None,
    }
    assert fer("status")[0] == 0
    assert fer("history")[:2] == (0, "fer-fusion has had no champion yet\n")
    status, out, err = fer("promote")
    assert (status, out) == (1, "")
    assert (
        err == "error: fer-fusion has no challenger: 'dvc repro' registers one, or name a version\n"
    )
    assert fer("rollback")[0] == 1
    assert fer("gc")[:2] == (0, "nothing to delete\n")


def test_the_life_of_a_champion(fer: Fer, store: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    now = json.loads(fer("status", "--json")[1])
    assert (now["champion"], now["challenger"]["version"]) == (None, "1")
    assert now["challenger"]["accuracy"] == 0.775
    assert now["decision"]["promote"] is True

    status, out, _ = fer("promote", "--reason", "the first", "--by", "ada")
    assert (status, out.splitlines()[0]) == (0, "champion: version 1, until now none")
    status, out, _ = fer("promote", "2", "--reason", "the better", "--by", "bob")
    assert (status, out.splitlines()[0]) == (0, "champion: version 2, until now 1")
    for spelling in ("2", "02"):  # else the champion would become its own previous one
        assert fer("promote", spelling)[1] == f"version {spelling} is champion already\n"

    status, out, err = fer("promote", "3")
    assert (status, out) == (1, "")
    assert err.startswith("error: version 3 is not promoted: -10.00 points on champion 2 over 40")
    assert len(err.splitlines()) == 1
    status, out, _ = fer("promote", "3", "--force", "--reason", "a test of nerves")
    assert status == 0
    assert "policy: overridden: -10.00 points" in out

    status, out, _ = fer("rollback", "--reason", "nerves failed")
    assert (status, out) == (0, "champion: version 2, until now 3\n")
    shown = fer("status")[1]
    assert "95.00%" in shown
    assert read_aliases(store, NAME).champion == "2"

    moves = json.loads(fer("history", "--json")[1])
    assert [(move["action"], move["to"]) for move in moves] == [
        ("rollback", "2"),
        ("promote", "3"),
        ("promote", "2"),
        ("promote", "1"),
    ]
    shown = fer("history")[1]
    for word in ("nerves failed", "a test of nerves", "ada", "bob", "overridden"):
        assert word in shown
    monkeypatch.setenv("COLUMNS", "80")
    assert len(re.findall(r"│ 20\d\d-\d\d-\d\d \d\d:\d\d │", fer("history")[1])) == 4

    assert fer("gc", "--keep", "0", "--dry-run")[1] == "version 1: would go\n"
    assert fer("gc", "--keep", "0")[1] == "version 1: deleted\n"


def test_a_user_without_a_name_is_a_number(
    fer: Fer, store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert fer("promote")[0] == 0
    assert json.loads(fer("history", "--json")[1])[0]["by"] == f"user {os.getuid()}"


def test_a_store_that_is_no_store_is_one_line(fer: Fer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    status, out, err = fer("status", "--json")
    assert (status, out) == (1, "")
    assert err.startswith("error: MLflow at http://127.0.0.1:9 can't be reached")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "history", "promote", "rollback", "gc"])
def test_every_command_has_a_help(fer: Fer, command: str) -> None:
    status, out, _ = fer(command, "--help")
    assert status == 0
    assert f"registry {command} [OPTIONS]" in out

"""Which edits `fer accept` takes, by what git and `dvc.lock` say, without a run of DVC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from fer_pipeline.cli import accept as module
from fer_pipeline.errors import DataError

CODE = Path("code/sum.py")
EDITED = [{"changed deps": {"code": "modified"}}]


def record(out: str = "made") -> None:
    """Write `dvc.lock` as DVC does after a run, or an acceptance, of the code that is there."""
    deps = [{"path": "code", "md5": module.dvc_hash(Path("code"))}, {"path": "in", "md5": "given"}]
    entry = {"cmd": "x", "deps": deps, "outs": [{"path": "out", "md5": out}]}
    with Path("dvc.lock").open("w") as stream:
        YAML().dump({"stages": {"add": entry}}, stream)


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose code and `dvc.lock` are committed, in the current folder."""
    monkeypatch.chdir(tmp_path)
    CODE.parent.mkdir()
    CODE.write_text("A = 1\n")
    record()
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*who, "commit", "--quiet", "-m", "a run"),
    ):
        subprocess.run(["git", *words], check=True)


@pytest.mark.usefixtures("_project")
def test_after_text_that_was_never_committed_the_committed_run_still_counts() -> None:
    CODE.write_text("A = 1\n# a remark\n")
    assert module._fault("add", EDITED) == ""
    record()
    CODE.write_text("A = 1\n# a remark\nX = 1\n")
    assert module._fault("add", EDITED) == (
        "code has changed in more than comments and layout: run 'dvc repro add'"
    )
    CODE.write_text("A = 1\n")
    assert module._fault("add", EDITED) == ""


@pytest.mark.usefixtures("_project")
def test_a_committed_run_that_made_something_else_does_not_count() -> None:
    CODE.write_text("A = 2\n")
    record(out="made by 2")
    CODE.write_text("A = 1\n")
    assert module._fault("add", EDITED) == (
        "no commit has code as it was when it ran or was accepted, so nobody can tell what has "
        "changed: run 'dvc repro add'"
    )


@pytest.mark.usefixtures("_project")
def test_only_text_that_git_has_not_is_to_be_committed() -> None:
    assert module._advice(EDITED) == ""
    CODE.write_text("A = 1\n# a remark\n")
    assert module._advice(EDITED) == "; commit this edit before the next one"


def test_a_command_that_fails_is_told_without_the_path_of_python() -> None:
    with pytest.raises(DataError, match=r"^'json\.tool none' failed: "):
        module._run(sys.executable, "-m", "json.tool", "none")

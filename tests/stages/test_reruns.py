"""What an edit costs: which stages run again after it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from workspace import Workspace

pytestmark = pytest.mark.slow

TRAININGS = {"train@resnet50", "train@inception_v3"}


def stale(workspace: Workspace) -> set[str]:
    """The stages that DVC finds out of date by themselves."""
    return set(json.loads(workspace.check("dvc", "status", "--json")))


def ran(workspace: Workspace) -> set[str]:
    """The stages that `dvc repro` runs."""
    return set(re.findall(r"Running stage '(.+)'", workspace.check("dvc", "repro")))


def edit(workspace: Workspace, path: str, old: str, new: str) -> None:
    file = workspace.folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_comment_in_the_training_is_accepted_and_nothing_runs(copied: Workspace) -> None:
    path = "fer_pipeline/training/fit.py"
    edit(copied, path, '"""', '"""Another docstring. ')
    with Path(copied.folder, path).open("a") as stream:
        stream.write("\n\n# Why this is so.\n")
    assert stale(copied) == TRAININGS
    assert "train@resnet50: the same program: accepted" in copied.check("fer", "accept")
    assert ran(copied) == set()


def test_another_program_is_not_accepted(copied: Workspace) -> None:
    with (copied.folder / "fer_pipeline/training/fit.py").open("a") as stream:
        stream.write("\nADDED = 1\n")
    done = copied.run("fer", "accept", "train@resnet50")
    assert done.returncode == 1
    assert "fer_pipeline/training has changed in more than comments" in done.stdout
    assert "dvc repro train@resnet50" in done.stdout
    assert stale(copied) == TRAININGS


def test_an_edit_beside_another_param_is_not_accepted(copied: Workspace) -> None:
    edit(copied, "fer_pipeline/training/fit.py", '"""', '"""Another docstring. ')
    copied.edit_params(backbones__resnet50__finetune__epochs=2)
    done = copied.run("fer", "accept")
    assert done.returncode == 1
    assert "train@resnet50: params.yaml has changed: run 'dvc repro train@resnet50'" in done.stdout
    assert "train@inception_v3: the same program: accepted" in done.stdout
    assert stale(copied) >= {"train@resnet50"}
    assert "train@inception_v3" not in stale(copied)


def test_code_that_no_commit_has_is_not_accepted(copied: Workspace) -> None:
    copied.check("git", "commit", "--quiet", "--amend", "--message", "Start", "--allow-empty")
    edit(copied, "fer_pipeline/fusion/temperature.py", '"""', '"""Ran like this. ')
    copied.check("dvc", "commit", "--force", "calibrate")  # as after a run of uncommitted code
    edit(copied, "fer_pipeline/fusion/temperature.py", '"""', '"""And edited. ')
    done = copied.run("fer", "accept", "calibrate")
    assert done.returncode == 1
    assert "no commit has fer_pipeline/fusion as it was when it ran" in done.stdout

"""What an edit costs: which stages run again after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspace import InProcess, Workspace

pytestmark = pytest.mark.slow

TRAININGS = {"train@resnet50", "train@inception_v3"}


def stale(workspace: Workspace) -> set[str]:
    """The stages that DVC finds out of date by themselves."""
    with workspace.repo() as repo:
        return set(repo.status())


def ran(workspace: Workspace) -> set[str]:
    """The stages that `dvc repro` runs."""
    with workspace.repo() as repo:
        return {one.addressing for one in repo.reproduce()}


def edit(workspace: Workspace, path: str, old: str, new: str) -> None:
    file = workspace.folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.fixture
def copied(copied: Workspace) -> Workspace:
    return InProcess(copied.folder, copied.env)


def test_a_comment_in_the_training_is_accepted_and_nothing_runs(copied: Workspace) -> None:
    path = "fer_pipeline/training/fit.py"
    edit(copied, path, '"""', '"""Another docstring. ')
    with Path(copied.folder, path).open("a") as stream:
        stream.write("\n\n# Why this is so.\n")
    assert stale(copied) == TRAININGS
    assert "train@resnet50: the same program: accepted" in copied.check("fer", "accept")
    assert ran(copied) == set()


def test_nothing_else_is_accepted(copied: Workspace) -> None:
    def refused(stage: str) -> str:
        done = copied.run("fer", "accept", stage)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stdout

    training = copied.folder / "fer_pipeline/training/fit.py"
    text = training.read_text()
    training.write_text(f"{text}\nADDED = 1\n")
    assert "fer_pipeline/training has changed in more than comments" in refused("train@resnet50")
    assert stale(copied) == TRAININGS
    training.write_text(text)

    copied.edit_params(backbones__resnet50__finetune__epochs=2)
    assert "params.yaml has changed: run 'dvc repro train@resnet50'" in refused("train@resnet50")
    assert "train@inception_v3" not in stale(copied)
    copied.edit_params(backbones__resnet50__finetune__epochs=1)

    edit(copied, "dvc.yaml", "- fer_pipeline/training", "- fer_pipeline/training\n        - flows")
    assert "flows was no dependency when it ran" in refused("train@resnet50")

    fitted = "fer_pipeline/fusion/weights.py"
    edit(copied, fitted, '"""', '"""Ran like this. ')
    with copied.repo() as repo:
        repo.commit("calibrate", force=True)  # as after a run of uncommitted code
    edit(copied, fitted, '"""', '"""And was edited. ')
    assert "no commit has fer_pipeline/fusion as it was when it ran" in refused("calibrate")

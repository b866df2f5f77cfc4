"""What runs beside `make check`: the comparison of a pull request, and the hooks of a commit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from workspace import Workspace, make_workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def published(copied: Workspace, tmp_path: Path) -> Workspace:
    """A run that is committed, with its results in a DVC remote."""
    copied.check("git", "add", "dvc.lock")
    copied.check("git", "commit", "--quiet", "--message", "A run")
    copied.check("dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    copied.check("git", "commit", "--quiet", "--all", "--message", "A remote")
    copied.check("dvc", "push", "--quiet", "prepare", "predict", "calibrate", "evaluate")
    return copied


def test_two_runs_that_are_in_the_remote_are_compared(published: Workspace) -> None:
    published.edit_params(fusion__method="uniform")
    published.check("dvc", "repro", "evaluate")
    published.check("git", "commit", "--quiet", "--all", "--message", "Another method")
    published.check("dvc", "push", "--quiet", "calibrate", "evaluate")
    said = published.check("bash", ".ci/compare", "HEAD~1", "HEAD")
    assert said.startswith("### Results on record: HEAD~1 and HEAD\n```\n")
    assert "95 % interval" in said or "there is no difference" in said
    assert published.check("git", "status", "--porcelain") == ""


def test_without_a_run_on_record_there_is_nothing_to_compare(published: Workspace) -> None:
    said = published.check("bash", ".ci/compare", "HEAD~2", "HEAD")  # before dvc.lock
    assert "Nothing to compare: the run of" in said


def test_the_hooks_of_a_commit_use_the_tools_of_the_environment(root: Path, tmp_path: Path) -> None:
    workspace = make_workspace(root, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    workspace.check("pre-commit", "run", "ruff-check", "--all-files")
    (tmp_path / "fer_pipeline" / "emotions.py").write_text("import os\n")
    refused = workspace.run(
        "pre-commit", "run", "ruff-check", "--files", "fer_pipeline/emotions.py"
    )
    assert refused.returncode == 1
    assert "`os` imported but unused" in refused.stdout

"""What runs beside `make check`: the comparison of a pull request, and the hooks of a commit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from workspace import Workspace, make_workspace

pytestmark = pytest.mark.slow


def test_two_runs_that_are_in_the_remote_are_compared(copied: Workspace, tmp_path: Path) -> None:
    copied.check("git", "add", "dvc.lock")
    copied.check("git", "commit", "--quiet", "--message", "A run")
    config = copied.folder / ".dvc" / "config"
    text = config.read_text().replace("[core]\n", "[core]\n    remote = store\n")
    config.write_text(f"{text}['remote \"store\"']\n    url = {tmp_path}/store\n")
    copied.check("git", "commit", "--quiet", "--all", "--message", "A remote")
    copied.edit_params(fusion__method="uniform")
    with copied.repo() as repo:
        repo.reproduce("evaluate")
    copied.check("git", "commit", "--quiet", "--all", "--message", "Another method")
    with copied.repo() as repo:
        repo.push(["prepare", "predict", "calibrate", "evaluate"], all_commits=True)
    said = copied.check("bash", ".ci/compare", "HEAD~1", "HEAD")
    assert said.startswith("### Results on record: HEAD~1 and HEAD\n```\n")
    assert "95 % interval" in said or "there is no difference" in said
    assert copied.check("git", "status", "--porcelain") == ""
    before_any_run = copied.check("bash", ".ci/compare", "HEAD~3", "HEAD")
    assert "Nothing to compare: the run of" in before_any_run


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

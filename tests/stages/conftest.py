"""Workspaces for tests that run stages for real."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspace import Workspace, copy_workspace, make_workspace


@pytest.fixture(scope="session")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after one undisturbed `dvc repro`; to be read, not changed."""
    workspace = make_workspace(root, tmp_path_factory.mktemp("finished"))
    workspace.check("dvc", "repro")
    return workspace


@pytest.fixture
def copied(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished workspace, to be changed."""
    return copy_workspace(finished, tmp_path / "copy")

"""Workspaces for tests that run stages for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from workspace import (
    TRAIN,
    InProcess,
    TrainHere,
    Workspace,
    copy_workspace,
    make_bare_workspace,
    stage,
)

from fer_pipeline.paths import TRACKING_DB
from fer_pipeline.stages.launch import main


@pytest.fixture(scope="session")
def prepared_once(
    root: Path, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Workspace:
    """A folder without DVC in which the sample is prepared; to be read only."""
    bare = make_bare_workspace(root, tmp_path_factory.mktemp("prepared"))
    workspace = InProcess(bare.folder, bare.env)
    workspace.check(*stage("ingest"))
    workspace.check(*stage("prepare"))
    shutil.copy(empty_database, workspace.folder)
    return workspace


@pytest.fixture
def prepared(prepared_once: Workspace, tmp_path: Path) -> Workspace:
    """A folder in which only training is left to do, to be changed."""
    return copy_workspace(prepared_once, tmp_path / "prepared")


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TrainHere:
    """Run stage `train` for resnet50 in this process, which has torch and MLflow imported."""

    def run(workspace: Workspace, **env: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.chdir(workspace.folder)
            patch.setattr(sys, "argv", list(TRAIN[2:]))
            # MLflow keeps a connection per address: a relative one would be an earlier test's.
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.folder / TRACKING_DB}")
            for name, value in env.items():
                patch.setenv(name, value)
            # urllib keeps the proxies that it found in the environment at first use.
            patch.setattr(urllib.request, "_opener", None)
            capsys.readouterr()
            status = main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(TRAIN, status, said.out, said.err)

    return run

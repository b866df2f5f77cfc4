"""A real MLflow store in SQLite for the tests of a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from fer_pipeline.registry.tracking import Tracking, connect


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Tracking]:
    """Connected by an absolute address, and the working folder is its own: nothing leaks."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_database, folder)
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.chdir(folder)
        # What another module's registration set for the whole process goes before the variable.
        mlflow.set_tracking_uri(uri)
        yield connect("faces")

"""A real MLflow store in SQLite for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fer_pipeline.registry.tracking import Tracking, connect


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """Connected by an absolute address, and the working folder is its own: nothing leaks."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)
        yield connect("faces")

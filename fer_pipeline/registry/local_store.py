"""A store in a SQLite file: made whole, with its files beside it, and corrected after a move."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock
from mlflow.entities import Experiment
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from fer_pipeline.paths import TRACKING_ARTIFACTS

SQLITE = "sqlite:///"
"""Start of the address of such a store."""

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that say where files are."""


def prepare_database(uri: str) -> None:
    """Make the database once and whole.

    Several processes on an empty database race its migrations, and one killed half-way leaves
    it broken for good. So it is made under another name, alone, and then renamed.
    """
    path = Path(uri.removeprefix(SQLITE))
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            return
        partial = path.with_name(f".partial-{path.name}")
        for leftover in path.parent.glob(f"{partial.name}*"):
            leftover.unlink()
        MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
        partial.replace(path)


def artifacts_beside(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE)).resolve().parent / TRACKING_ARTIFACTS


def local_path(experiment: Experiment) -> Path | None:
    """Where an experiment has its files, if that is a folder."""
    location = experiment.artifact_location
    is_local: bool = is_local_uri(location)  # type: ignore[no-untyped-call]
    return Path(local_file_uri_to_path(location)) if is_local else None  # type: ignore[no-untyped-call]


def has_moved(experiment: Experiment, home: Path) -> bool:
    """Whether an experiment names another folder, which is gone or has a twin beside its store."""
    named = local_path(experiment)
    return named not in (None, home) and (home.exists() or not named.exists())


def relocate(uri: str, experiment: str) -> int:
    """Have a store that was moved or copied with its files name the folder beside it.

    MLflow stores absolute paths, and has no command for it.

    Args:
        uri: of the store.
        experiment: one that names the old folder.

    Returns:
        The number of rows that changed.
    """
    found = MlflowClient(uri).get_experiment_by_name(experiment)
    home = artifacts_beside(uri)
    if found is None or not has_moved(found, home):
        return 0
    old, new = found.artifact_location, home.as_uri()
    with closing(sqlite3.connect(uri.removeprefix(SQLITE))) as store, store:
        return sum(
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            ).rowcount
            for table, column in _PLACES
        )

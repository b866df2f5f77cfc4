"""The MLflow store: reached and prepared before any work, with locks for whoever writes to it."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from fer_pipeline.errors import (
    RegistryBusyError,
    RegistryError,
    RegistryUnreachableError,
    hide_password,
)
from fer_pipeline.paths import TRACKING_ARTIFACTS, TRACKING_DB

PING_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Tracking:
    """An MLflow store that has answered, and the experiment in it."""

    client: MlflowClient
    uri: str
    experiment_id: str


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite file beside `dvc.yaml`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{TRACKING_DB}"


def connect(experiment: str) -> Tracking:
    """Reach the store, prepare it if it is new, and find or make the experiment.

    Raises:
        RegistryError: the store can't be reached or used; said at once, before any work.
    """
    uri = tracking_uri()
    _ping(uri)
    try:
        if uri.startswith("sqlite:///"):
            _prepare_sqlite(Path(uri.removeprefix("sqlite:///")))
        client = MlflowClient(uri)
        return Tracking(client, uri, _experiment_id(client, uri, experiment))
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        raise RegistryError(
            f"MLflow at {shown_address(uri)} can't be used: {first_line(error)}"
        ) from error


@contextmanager
def mlflow_errors(tracking: Tracking) -> Iterator[None]:
    """Turn an exception of MLflow's own into one line.

    Raises:
        RegistryError: MLflow failed.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise RegistryError(
            f"MLflow at {shown_address(tracking.uri)} failed: {first_line(error)}"
        ) from error


def open_storage(tracking: Tracking, name: str, number: str) -> ArtifactRepository:
    """The files of a version, to be listed, fetched or deleted.

    MLflow's own functions for `models:/` addresses take the registry from a global setting; this
    one asks the store that it is given.
    """
    location = tracking.client.get_model_version_download_uri(name, number)
    return get_artifact_repository(location, tracking_uri=tracking.uri, registry_uri=tracking.uri)


@contextmanager
def registry_lock(tracking: Tracking, purpose: str, timeout_s: float) -> Iterator[None]:
    """Hold a lock between the processes of one machine; the kernel frees that of a killed one.

    For a database in a file that is enough: every process that can open the file sees the lock
    beside it. Users of a server on other machines are not locked out: what they do at once is put
    in order by the registry's own numbers (`versions`) and by the journal of moves (`aliases`).

    Args:
        tracking: the store that is written to.
        purpose: processes with other purposes do not wait for each other.
        timeout_s: how long to wait.

    Raises:
        RegistryBusyError: another process still holds it.
    """
    path = _lock_file(tracking.uri, purpose)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=timeout_s):
            yield
    except Timeout:
        raise RegistryBusyError(
            f"another process has been busy with the registry for {timeout_s:g} s ({path}): "
            "wait for it, or end it, and try again"
        ) from None


def _lock_file(uri: str, purpose: str) -> Path:
    """Beside a SQLite file; for a server in the folder for temporary files, by its address."""
    if uri.startswith("sqlite:///"):
        return Path(f"{uri.removeprefix('sqlite:///')}.{purpose}.lock")
    address = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"fer-{Path.home().name}-{address}.{purpose}.lock"


def _ping(uri: str) -> None:
    """Ask an HTTP server for its health first: MLflow's own client retries for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    # Health needs no login, and urllib would take user and password for part of the host.
    health = f"{shown_address(uri).rstrip('/')}/health"
    try:
        with urllib.request.urlopen(health, timeout=PING_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as error:
        kind = RegistryUnreachableError if error.code >= 500 else RegistryError
        raise kind(
            f"MLflow at {shown_address(uri)} answers {error.code}: check MLFLOW_TRACKING_URI"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise RegistryUnreachableError(
            f"MLflow at {shown_address(uri)} can't be reached ({first_line(error)}): "
            "start it, or correct or unset MLFLOW_TRACKING_URI"
        ) from error


def _prepare_sqlite(path: Path) -> None:
    """Make the database once and whole.

    Several processes on an empty database race its migrations, and one killed half-way leaves
    it broken for good. So it is made under another name, alone, and then renamed.
    """
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


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server knows where its artifacts go; those of a local database lie beside it.
        location = TRACKING_ARTIFACTS.resolve().as_uri() if uri.startswith("sqlite:") else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow experiment '{name}' is deleted: restore it with "
            f"'mlflow experiments restore -x {found.experiment_id}' or change registry.experiment"
        )
    return str(found.experiment_id)


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow says that what was asked for does not exist."""
    return bool(error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))


def shown_address(uri: str) -> str:
    """The URI without what may be a secret: user, password and query.

    Raises:
        RegistryError: it is no URI; it is not shown, since it may hold a password.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise RegistryError("MLFLOW_TRACKING_URI is no address: correct or unset it") from error
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def first_line(error: BaseException) -> str:
    """The start of a message, without passwords."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return hide_password(line)[:200]

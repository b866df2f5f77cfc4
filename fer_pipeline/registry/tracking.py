"""MLflow runs: one per training and one per fusion, in a store that is reachable and whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NAME
from sqlalchemy.exc import SQLAlchemyError

from fer_pipeline.errors import (
    RegistryError,
    RegistryUnreachableError,
    hide_password,
    one_line,
)
from fer_pipeline.events import emit
from fer_pipeline.paths import TRACKING_ARTIFACTS, TRACKING_DB
from fer_pipeline.provenance import git_state
from fer_pipeline.registry.observation import log_data, system_metrics

log = logging.getLogger(__name__)

PING_TIMEOUT_S = 10.0

KEY_TAG = "fer.key"


@dataclass(frozen=True)
class Tracking:
    """An MLflow store that has answered, and the experiment in it."""

    client: MlflowClient
    uri: str
    experiment_id: str


@dataclass(frozen=True)
class RunLog:
    """An open run to write to."""

    client: MlflowClient
    run_id: str

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log several metrics at once: a batch costs as much as one."""
        now_ms = int(time.time() * 1000)
        batch = [Metric(key, value, now_ms, step) for key, value in values.items()]
        self.client.log_batch(self.run_id, metrics=batch)

    def params(self, values: Mapping[str, object]) -> None:
        batch = [Param(key, str(value)) for key, value in values.items()]
        self.client.log_batch(self.run_id, params=batch)

    def tags(self, values: Mapping[str, str]) -> None:
        batch = [RunTag(key, value) for key, value in values.items()]
        self.client.log_batch(self.run_id, tags=batch)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file.

        Raises:
            RegistryError: the artifact store refused; it raises what its own client does.
        """
        try:
            self.client.log_artifact(self.run_id, str(path), folder)
        except Exception as error:
            raise RegistryError(
                f"{path} could not be stored with the run ({one_line(error)}): see that MLflow's "
                "artifact store runs and has room, then run the stage again"
            ) from error


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
            f"MLflow at {_shown(uri)} can't be used: {_first_line(error)}"
        ) from error


@contextmanager
def open_run(
    tracking: Tracking, name: str, inputs: Mapping[str, object], tags: Mapping[str, str]
) -> Iterator[RunLog]:
    """A run that ends as FINISHED, FAILED or KILLED with the block.

    A run that a killed process left open is continued, if it had the same inputs in the same
    workspace: however often a stage is interrupted, it leaves one run.

    Args:
        name: shown in the UI.
        inputs: everything that decides the result; not logged, only compared. A run with
            `data` among them is a training: the prepared splits are logged as data set inputs,
            and the machine is watched.
        tags: for the run.
    """
    key = _run_key(name, inputs)
    run = _unfinished_run(tracking, key) or tracking.client.create_run(
        tracking.experiment_id,
        tags={MLFLOW_RUN_NAME: name, KEY_TAG: key, MLFLOW_GIT_COMMIT: git_state().commit},
    )
    run_id = run.info.run_id
    tracking.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    emit(
        "run",
        name=name,
        run_id=run_id,
        experiment_id=tracking.experiment_id,
        uri=_shown(tracking.uri),
    )
    try:
        with _observed(tracking, run_id, inputs):
            yield RunLog(tracking.client, run_id)
        tracking.client.set_terminated(run_id, "FINISHED")
    except BaseException as error:
        _end_quietly(tracking, run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        if isinstance(error, MlflowException):
            raise RegistryError(
                f"MLflow at {_shown(tracking.uri)} failed: {_first_line(error)}"
            ) from error
        raise


@contextmanager
def _observed(tracking: Tracking, run_id: str, inputs: Mapping[str, object]) -> Iterator[None]:
    if "data" not in inputs:
        yield
        return
    log_data(tracking.client, run_id)
    with system_metrics(tracking.uri, run_id):
        yield


@contextmanager
def telling_errors(tracking: Tracking) -> Iterator[None]:
    """Say in one line what MLflow says in an exception of its own.

    Raises:
        RegistryError: MLflow failed.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise RegistryError(
            f"MLflow at {_shown(tracking.uri)} failed: {_first_line(error)}"
        ) from error


def _end_quietly(tracking: Tracking, run_id: str, status: str) -> None:
    """End a run after an error, which a second one from a dead server must not hide."""
    try:
        tracking.client.set_terminated(run_id, status)
    except MlflowException as error:
        log.warning("run %s could not be marked %s: %s", run_id, status, _first_line(error))


def _ping(uri: str) -> None:
    """Ask an HTTP server for its health first: MLflow's own client retries for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    # Health is told to everybody; urllib would take user and password for part of the host.
    health = f"{_shown(uri).rstrip('/')}/health"
    try:
        with urllib.request.urlopen(health, timeout=PING_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as error:
        kind = RegistryUnreachableError if error.code >= 500 else RegistryError
        raise kind(
            f"MLflow at {_shown(uri)} answers {error.code}: check MLFLOW_TRACKING_URI"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise RegistryUnreachableError(
            f"MLflow at {_shown(uri)} can't be reached ({_first_line(error)}): "
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
        # A server knows where its artifacts go; a local database is told to keep them beside it.
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


def _unfinished_run(tracking: Tracking, key: str) -> Run | None:
    runs = tracking.client.search_runs(
        [tracking.experiment_id],
        f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'RUNNING'",
        max_results=1,
    )
    return runs[0] if runs else None


def _run_key(name: str, inputs: Mapping[str, object]) -> str:
    place = [socket.gethostname(), str(Path.cwd())]
    text = json.dumps([name, place, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _shown(uri: str) -> str:
    """The URI without what may be a secret: user, password and query.

    Raises:
        RegistryError: it is no URI; what it is may be a password, so it is not said.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise RegistryError("MLFLOW_TRACKING_URI is no address: correct or unset it") from error
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _first_line(error: BaseException) -> str:
    """The start of a message, without passwords."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return hide_password(line)[:200]

"""The MLflow store: reached and prepared before any work."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException

from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy import NullPool, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from fer_pipeline.errors import RegistryError, RegistryUnreachableError, hide_password, one_line
from fer_pipeline.paths import TRACKING_DB, project_folder
from fer_pipeline.registry.local_store import (
    SQLITE,
    artifacts_beside,
    has_moved,
    local_path,
    prepare_database,
)

PING_TIMEOUT_S = 10.0

_KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI shows no metrics
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class Tracking:
    """An MLflow store that has answered, and the experiment in it."""

    client: MlflowClient
    uri: str
    experiment_id: str


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite file beside `dvc.yaml`.

    A relative path is one in the project's folder also for an experiment that DVC runs in a folder
    of its own, and deletes.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{TRACKING_DB}"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{project_folder() / uri.removeprefix(SQLITE)}"
    return uri


def connect(experiment: str) -> Tracking:
    """Reach the store, prepare it if it is new, and find or make the experiment.

    Raises:
        RegistryError: the store can't be reached or used; said at once, before any work.
    """
    uri = tracking_uri()
    os.environ.pop("MLFLOW_REGISTRY_URI", None)  # versions stand where their runs do
    with mlflow_errors(uri):
        if uri.startswith(("http://", "https://")):
            _ask_server(uri)
        elif uri.partition(":")[0].partition("+")[0] in _DATABASE_PORTS:
            _ask_database(uri)
        if uri.startswith(SQLITE):
            prepare_database(uri)
        client = MlflowClient(uri)
        return Tracking(client, uri, find_experiment(client, uri, experiment))


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn an exception of MLflow's own into one line.

    Raises:
        RegistryError: MLflow failed.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        shown, cause = shown_address(uri), _root_cause(error)
        if isinstance(cause, ssl.SSLError):
            raise RegistryError(
                f"the certificate of MLflow at {shown} is not trusted ({one_line(cause)}): set "
                "MLFLOW_TRACKING_SERVER_CERT_PATH to that of its authority"
            ) from error
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror | HTTPException):
            raise RegistryUnreachableError(
                f"MLflow at {shown} can't be reached ({one_line(cause)}): start it and try again, "
                "or correct or unset MLFLOW_TRACKING_URI"
            ) from error
        text = one_line(error).replace("<database_uri>", shown)
        raise RegistryError(f"MLflow at {shown} failed: {text}") from error


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn whatever the client of an artifact store raises, which is not known here, into one line.

    Raises:
        RegistryError: it failed; the message begins with what could not be done.
    """
    try:
        yield
    except Exception as error:
        raise RegistryError(
            f"{what} ({one_line(error)}): see that MLflow and its artifact store run and have "
            "space left, then try again"
        ) from error


def _root_cause(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error


def _ask_server(uri: str) -> None:
    """Ask once, as MLflow's own client does, which tries again for longer.

    Raises:
        RegistryError: it refuses, or is no MLflow.
    """
    status: int = http_request(  # type: ignore[no-untyped-call]
        get_default_host_creds(uri),  # type: ignore[no-untyped-call]
        "/api/2.0/mlflow/experiments/search",
        "GET",
        params={"max_results": 1},
        timeout=PING_TIMEOUT_S,
        max_retries=0,
        raise_on_status=False,
    ).status_code
    if status in (401, 403):
        raise RegistryError(
            f"MLflow at {shown_address(uri)} refuses the login ({status}): set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if status != 200:
        kind = RegistryUnreachableError if status >= 500 else RegistryError
        raise kind(f"MLflow at {shown_address(uri)} answers {status}: check MLFLOW_TRACKING_URI")


def _ask_database(uri: str) -> None:
    """See that there is a server which takes the login: MLflow tries for minutes."""
    url = make_url(uri)
    try:
        if url.host:
            port = url.port or _DATABASE_PORTS[url.get_backend_name()]
            socket.create_connection((url.host, port), PING_TIMEOUT_S).close()
        create_engine(url, poolclass=NullPool).connect().close()
    except (OSError, ImportError) as error:  # no server, or no driver for it
        raise MlflowException(str(error)) from error


def find_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment, which is made if it is new.

    Raises:
        RegistryError: it is deleted, or its files are where they can't be stored.
    """
    found = client.get_experiment_by_name(name)
    # A server knows where its artifacts go; those of a database in a file lie beside it.
    home = artifacts_beside(uri) if uri.startswith(SQLITE) else None
    if uri.startswith("http"):
        _require_artifacts(uri, found or client.get_experiment_by_name("Default"))
    if found is None:
        location = home.as_uri() if home else None
        try:
            return str(client.create_experiment(name, location, _KIND))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow experiment '{name}' is deleted: restore it with "
            f"'mlflow experiments restore -x {found.experiment_id}' or change registry.experiment"
        )
    if home and has_moved(found, home):
        raise RegistryError(
            f"{shown_address(uri)} was moved or copied: it says that its files are in "
            f"{local_path(found)}, not in {home}: run 'fer registry relocate'"
        )
    for key in _KIND.keys() - found.tags.keys():  # made by an earlier version
        client.set_experiment_tag(found.experiment_id, key, _KIND[key])
    return str(found.experiment_id)


def _require_artifacts(uri: str, experiment: Experiment | None) -> None:
    """See that a server takes files itself, or that its folder is one that we share.

    Raises:
        RegistryError: its clients are to write to a folder that is not here.
    """
    folder = local_path(experiment) if experiment else None
    if folder and not os.access(root := folder.parent, os.W_OK):
        raise RegistryError(
            f"MLflow at {shown_address(uri)} leaves it to its clients to write files to {root}, "
            f"which is not possible here: start it with '--artifacts-destination {root}' in place "
            "of '--no-serve-artifacts' or '--default-artifact-root', and take a new "
            "registry.experiment, since one keeps the place that it was made with"
        )


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow says that what was asked for does not exist."""
    return bool(error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))


def shown_address(uri: str) -> str:
    """The URI without what may be a secret: user, password and query."""
    return hide_password(uri).partition("?")[0]

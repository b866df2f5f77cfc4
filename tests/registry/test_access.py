"""A server behind a login, a proxy or a certificate is reached as by MLflow's own client."""

from __future__ import annotations

import base64
import gc
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer, gateway, mlflow_server, write_certificate

from fer_pipeline.errors import RegistryError, RegistryUnreachableError
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import connect

pytestmark = [
    pytest.mark.slow,
    # MLflow's client keeps its connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]

LOGIN = f"Basic {base64.b64encode(b'ann:s3cret').decode()}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[MlflowServer]:
    with mlflow_server(folder) as server:
        yield server


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def refusal(kind: type[RegistryError] = RegistryError) -> str:
    started = time.monotonic()
    with pytest.raises(kind) as refused:
        connect("faces")
    assert time.monotonic() - started < 60  # MLflow's own retries take minutes
    says = str(refused.value)
    assert "s3cret" not in says
    del refused
    gc.collect()
    return says


@contextmanager
def place_artifacts(database: Path, place: str) -> Iterator[None]:
    """Have the experiment that a new one is made like, `Default`, keep its files elsewhere."""
    update = "UPDATE experiments SET artifact_location = ? WHERE name = 'Default'"
    with closing(sqlite3.connect(database)) as store:
        found = "SELECT artifact_location FROM experiments WHERE name = 'Default'"
        (before,) = store.execute(found).fetchone()
        with store:
            store.execute(update, (place,))
        yield
        with store:
            store.execute(update, (before,))


def test_a_server_whose_folder_is_not_here_is_refused_before_any_work(
    server: MlflowServer, folder: Path, env: pytest.MonkeyPatch
) -> None:
    """Of `--default-artifact-root` a client sees where the experiments have their files."""
    env.setenv("MLFLOW_TRACKING_URI", server.uri)
    with place_artifacts(folder / "mlflow.db", "/nowhere/of/the/server/0"):
        says = refusal()
    assert "write files to /nowhere/of/the/server, which is not possible here" in says
    assert "start it with '--artifacts-destination /nowhere/of/the/server'" in says
    assert MlflowClient(server.uri).get_experiment_by_name("faces") is None


def test_user_and_password_of_the_environment_or_the_address_are_sent(
    server: MlflowServer, env: pytest.MonkeyPatch
) -> None:
    with gateway(server, LOGIN) as port:
        env.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        assert refusal() == (
            f"MLflow at http://127.0.0.1:{port} refuses the login (401): set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
        env.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        env.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret?")
        assert "refuses the login (401)" in refusal()
        env.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
        number = connect("faces").experiment_id
        env.delenv("MLFLOW_TRACKING_USERNAME")
        env.delenv("MLFLOW_TRACKING_PASSWORD")
        env.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@127.0.0.1:{port}/")
        assert connect("faces").experiment_id == number


def test_a_token_is_sent(server: MlflowServer, env: pytest.MonkeyPatch) -> None:
    with gateway(server, "Bearer s3cret") as port:
        env.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        assert "refuses the login (401)" in refusal()
        env.setenv("MLFLOW_TRACKING_TOKEN", "s3cret")
        connect("faces")


def test_a_certificate_of_ones_own_is_taken_where_it_is_named(
    server: MlflowServer, env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = write_certificate(tmp_path / "own.pem")
    with gateway(server, certificate=certificate) as port:
        env.setenv("MLFLOW_TRACKING_URI", f"https://127.0.0.1:{port}")
        says = refusal()
        assert says.startswith(f"the certificate of MLflow at https://127.0.0.1:{port} is not")
        assert says.endswith("set MLFLOW_TRACKING_SERVER_CERT_PATH to that of its authority")
        for variable, value in (
            ("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate)),
            ("REQUESTS_CA_BUNDLE", str(certificate)),
            ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
        ):
            with pytest.MonkeyPatch.context() as only:
                only.setenv(variable, value)
                connect("faces")


def test_a_server_that_keeps_silent_is_given_up(
    server: MlflowServer, env: pytest.MonkeyPatch
) -> None:
    env.setattr("fer_pipeline.registry.tracking.PING_TIMEOUT_S", 0.5)
    env.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.signal(19)  # SIGSTOP: it takes connections and answers nothing
    try:
        assert "can't be reached (timed out)" in refusal(RegistryUnreachableError)
    finally:
        server.signal(18)


def test_epochs_that_a_server_missed_are_logged_when_the_run_ends(
    server: MlflowServer, env: pytest.MonkeyPatch
) -> None:
    env.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ExitStack() as first:
        port = first.enter_context(gateway(server))
        env.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        store = connect("faces")
        with ExitStack() as second, open_run(store, "resnet50", {}) as run:
            run.metrics({"val_accuracy": 0.1}, 1)
            first.close()
            run.metrics({"val_accuracy": 0.2}, 2)
            run.metrics({"val_accuracy": 0.3}, 3)
            second.enter_context(gateway(server, port=port))
    assert [one.step for one in run.missed] == [2, 3]
    direct = MlflowClient(server.uri)
    assert direct.get_run(run.run_id).info.status == "FINISHED"
    history = direct.get_metric_history(run.run_id, "val_accuracy")
    assert [(one.step, one.value) for one in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_a_server_that_stays_away_ends_the_run_in_one_line_and_the_next_continues_it(
    server: MlflowServer, env: pytest.MonkeyPatch
) -> None:
    env.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def train(until_its_end: ExitStack) -> None:
        with open_run(store, "resnet101", {}) as run:
            run.metrics({"val_accuracy": 0.1}, 1)
            until_its_end.close()
            run.metrics({"val_accuracy": 0.2}, 2)

    with ExitStack() as first:
        port = first.enter_context(gateway(server))
        env.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        store = connect("faces")
        with pytest.raises(RegistryUnreachableError, match=r"can't be reached \(.*refused\)"):
            train(first)
    with gateway(server, port=port), open_run(store, "resnet101", {}) as run:
        for step in (1, 2, 3):  # as a training does that goes on from its checkpoint
            run.metrics({"val_accuracy": 0.1 * step}, step)
    direct = MlflowClient(server.uri)
    history = direct.get_metric_history(run.run_id, "val_accuracy")
    assert [one.step for one in history] == [1, 2, 3]

"""An MLflow store that is whole or refused."""

from __future__ import annotations

import gc
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fer_command import run_fer
from fused_model import draw_test_split, make_version
from processes import WITHIN_S

from fer_pipeline.errors import RegistryError
from fer_pipeline.registry.record import read_record
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import Tracking, connect, tracking_uri

pytestmark = [
    # An HTTPError keeps its connection open until it is collected; `refusal` sees to that here.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
]

# Forks, for the import of MLflow takes longest; the two connect when both have begun.
CONNECT_AT_ONCE = """
import os, sys, time
from pathlib import Path
from fer_pipeline.registry.tracking import connect

def race(number):
    Path(f"ready-{number}").touch()
    while len(list(Path().glob("ready-*"))) < 2:
        time.sleep(0.001)
    Path(f"found-{number}").write_text(connect("faces").experiment_id)

for number in range(2):
    if os.fork() == 0:
        race(number)
        os._exit(0)
sys.exit(any([os.wait()[1] for _ in range(2)]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder for the module, without settings for MLflow from outside.

    One for all tests, because MLflow keeps its engines, and so their files, by relative URI.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(tmp_path_factory.mktemp("workspace"))
        yield Path.cwd()


@pytest.fixture(scope="module")
def tracking(folder: Path) -> Tracking:
    """A new database in the folder, where a killed process had left a part of one."""
    for leftover in (".partial-mlflow.db", ".partial-mlflow.db-journal"):
        (folder / leftover).write_bytes(b"half a database")
    return connect("faces")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib keeps the proxies that it found in the environment at first use."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port: int = closed_soon.getsockname()[1]
    return port


class Unavailable(BaseHTTPRequestHandler):
    """An HTTP server that is up and can't serve."""

    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving_unavailable() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Unavailable) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def refusal(experiment: str = "faces") -> str:
    """What `connect` says against the store that the environment names."""
    started = time.monotonic()
    with pytest.raises(RegistryError) as refused:
        connect(experiment)
    assert time.monotonic() - started < 60  # MLflow's own retries take minutes
    says = str(refused.value)
    del refused
    gc.collect()
    return says


def test_the_default_store_is_a_database_beside_dvc_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri() == "http://mlflow:5000"


def test_connecting_makes_a_whole_database_despite_leftovers(
    tracking: Tracking, folder: Path
) -> None:
    assert tracking.uri == "sqlite:///mlflow.db"
    with sqlite3.connect(folder / "mlflow.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        assert {"experiments", "runs", "registered_models", "alembic_version"} <= tables
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert [path.name for path in folder.glob(".partial*")] == []


def test_artifacts_lie_beside_the_database(tracking: Tracking, folder: Path) -> None:
    experiment = tracking.client.get_experiment(tracking.experiment_id)
    assert experiment.name == "faces"
    assert experiment.tags == {"mlflow.experimentKind": "custom_model_development"}
    assert experiment.artifact_location == (folder / "mlartifacts").as_uri()


def test_versions_stand_in_the_store_of_the_runs(
    tracking: Tracking, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{closed_port}")
    assert list(connect("faces").client.search_registered_models()) == []


def test_connecting_again_finds_the_same_experiment(tracking: Tracking) -> None:
    assert connect("faces").experiment_id == tracking.experiment_id
    assert connect("others").experiment_id != tracking.experiment_id


def test_a_deleted_experiment_is_refused_with_the_way_back(tracking: Tracking) -> None:
    number = connect("deleted").experiment_id
    tracking.client.delete_experiment(number)
    assert refusal("deleted") == (
        f"MLflow experiment 'deleted' is deleted: restore it with "
        f"'mlflow experiments restore -x {number}' or change registry.experiment"
    )


@pytest.mark.slow
def test_two_processes_can_connect_to_an_empty_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", CONNECT_AT_ONCE],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"found-{number}").read_text() for number in range(2))
    assert first == second != ""


def test_a_server_that_is_not_there_is_refused_at_once_by_its_address(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    says = refusal()
    assert says.startswith(f"MLflow at http://127.0.0.1:{closed_port} can't be reached (")
    assert says.endswith("start it and try again, or correct or unset MLFLOW_TRACKING_URI")


def test_a_server_that_answers_with_an_error_is_refused_by_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving_unavailable() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}/")
        says = refusal()
    assert says == f"MLflow at http://127.0.0.1:{port}/ answers 503: check MLFLOW_TRACKING_URI"


def test_a_password_is_never_shown(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://ann:s3cret@127.0.0.1:{closed_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    says = refusal()
    assert f"http://127.0.0.1:{closed_port} can't be reached" in says
    assert "s3cret" not in says
    assert "ann" not in says


def test_a_server_behind_a_password_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_unavailable() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@127.0.0.1:{port}")
        assert f"MLflow at http://127.0.0.1:{port} answers 503" in refusal()


@pytest.mark.parametrize(
    "address", ["http://ann:s3cret@127.0.0.1:port", "http://127.0.0.1:port", "http://[::1"]
)
def test_an_address_that_is_none_is_refused_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert "s3cret" not in refusal()


def test_a_server_that_speaks_no_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert "can't be reached" in refusal()


def test_a_kind_of_store_that_mlflow_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://ann:s3cret@example.org/runs")
    says = refusal()
    assert says.startswith("MLflow at ftp://example.org/runs failed: ")


def test_a_database_server_that_is_not_there_is_refused_at_once(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"postgresql://ann:s3cret@127.0.0.1:{closed_port}/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    says = refusal()
    assert says.startswith(
        f"MLflow at postgresql://127.0.0.1:{closed_port}/mlflow can't be reached"
    )


def test_a_store_of_another_schema_is_refused_with_the_whole_remedy(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, tmp_path / "old.db")
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '1bd49d398cd23'")
    database.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/old.db")
    says = refusal()
    assert says.startswith(f"MLflow at sqlite:///{tmp_path}/old.db failed: Detected out-of-date")
    assert f"run 'mlflow db upgrade sqlite:///{tmp_path}/old.db' to migrate" in says
    assert says.endswith("for more detail.")


@pytest.mark.parametrize("old_is_there", [True, False], ids=["copied", "moved"])
def test_a_store_in_another_folder_is_refused_until_it_is_relocated(
    old_is_there: bool,
    root: Path,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    (here / "mlartifacts").mkdir(parents=True)
    shutil.copy(empty_database, here)
    shutil.copy(root / "params.yaml", here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    store = connect("fer2013")
    split = draw_test_split(images=8)
    (here / "note.txt").write_text("made here")
    with open_run(store, "fusion", {}) as run:
        run.artifact(here / "note.txt")
    store.client.create_registered_model("faces")
    make_version(store, here / "mlartifacts" / "files", "faces", [], split)

    there = tmp_path / "there"
    shutil.copytree(here, there)
    if not old_is_there:
        shutil.rmtree(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{there}/mlflow.db")
    says = refusal("fer2013")
    assert says == (
        f"sqlite:///{there}/mlflow.db was moved or copied: it says that its files are in "
        f"{here}/mlartifacts, not in {there}/mlartifacts: run 'fer registry relocate'"
    )
    monkeypatch.chdir(there)
    # Of experiment and run, and source and storage of the version.
    assert run_fer(monkeypatch, capsys, "registry", "relocate") == (0, "4 places changed\n", "")
    assert run_fer(monkeypatch, capsys, "registry", "relocate") == (0, "nothing to change\n", "")
    shutil.rmtree(here, ignore_errors=True)
    store = connect("fer2013")
    assert store.client.list_artifacts(run.run_id)[0].path == "note.txt"
    assert len(read_record(store, "faces", "1").labels) == 8
    with open_run(store, "fusion", {}) as later:
        later.artifact(there / "note.txt")
    assert not here.exists()


@pytest.mark.parametrize("place", ["exps/standalone/tmp1", "trees/sweep-seed-3"])
def test_an_experiment_in_a_folder_of_its_own_uses_the_store_of_the_project(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tmp_path / ".dvc/tmp" / place
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert tracking_uri() == f"sqlite:///{tmp_path}/mine.db"
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == "sqlite:///mine.db"


def test_a_file_that_is_no_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'broken.db'}")
    assert "broken.db" in refusal()

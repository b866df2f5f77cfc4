"""What tests of the flows share: a Prefect server per test process, and marked processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_bench import FlowBench, make_bench
from prefect.events.worker import EventsWorker
from prefect_server import PrefectServer
from processes import WITHIN_S, kill_all, new_mark


@pytest.fixture(scope="module", autouse=True)
def _own_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Slots are files in the temporary folder: here of this test module alone."""
    folder = str(tmp_path_factory.mktemp("machine"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    """A flow in this process leaves one to its server, which draws random numbers to keep it open.

    Hypothesis fails a test of another module beside which that happens.
    """
    yield
    EventsWorker.drain_all(timeout=WITHIN_S)


@pytest.fixture
def mark() -> Iterator[str]:
    """On the command line of whatever the test starts; nothing with it outlives the test."""
    made = new_mark()
    yield made
    kill_all(made)


@pytest.fixture(scope="session")
def empty_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `PREFECT_HOME` with a database, to be copied: its migrations take seconds."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    env = {**os.environ, "PREFECT_HOME": str(home)}
    subprocess.run(command, env=env, check=True, capture_output=True)
    return home


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, empty_history: Path
) -> Iterator[PrefectServer]:
    """A server that runs as long as the tests."""
    home = tmp_path_factory.mktemp("prefect")
    server = PrefectServer(shutil.copytree(empty_history, home, dirs_exist_ok=True))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def bench(root: Path, tmp_path: Path, server: PrefectServer) -> FlowBench:
    """A project with stages that take no time, and that may be changed."""
    return make_bench(root, tmp_path / "bench", server)

"""A Prefect server for the tests of this folder, one per test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_bench import FlowBench, make_bench
from prefect_server import PrefectServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that runs as long as the tests."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bench(root: Path, tmp_path: Path, server: PrefectServer) -> FlowBench:
    """A project with stages that take no time, and that may be changed."""
    return make_bench(root, tmp_path / "bench", server)

"""A web server and the place that reads it; pinning a source with the smallest sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from web_server import WebServer

from fer_pipeline.data.sources.pins import Pin
from fer_pipeline.data.sources.source import Fetcher, pin_source
from fer_pipeline.data.sources.web import Web
from fer_pipeline.params.schema import DataParams, Params


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def data(params: Params) -> DataParams:
    """The committed section with the smallest sample."""
    sample = params.data.sample.model_copy(update={"train": 7, "val": 8, "test": 9, "seed": 3})
    return params.data.model_copy(update={"sample": sample})


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "downloads", lambda done, total: None)


@pytest.fixture
def take(data: DataParams, fetcher: Fetcher) -> Callable[..., Pin]:
    """`fer source pin`, without the file."""

    def pin_now(uri: object, before: Pin | None = None, ferplus: Path | None = None) -> Pin:
        return pin_source(str(uri), str(ferplus) if ferplus else None, data, before, fetcher)[0]

    return pin_now

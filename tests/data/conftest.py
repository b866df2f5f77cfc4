"""A web server, and the place that reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from web_server import WebServer

from fer_pipeline.data.web import Web


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


@pytest.fixture
def web() -> Iterator[Web]:
    place = Web()
    yield place
    place.close()

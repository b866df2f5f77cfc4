"""A configured Prefect server is asked for its health; test_pipeline has the temporary one."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, Settings, temporary_settings
from processes import WITHIN_S

from fer_pipeline.errors import FlowError
from flows import server as module
from flows.__main__ import deploy, pipeline, sweep
from flows.server import HEARTBEAT, _reason, keep_loopback_from_proxies, start_server


def wait_for(url: str) -> None:
    """For the server that is configured."""
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: url}):
        patch.setenv("PREFECT_API_URL", url)
        start_server()()


@pytest.fixture(autouse=True)
def _own_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a start says to later processes in the environment does not outlive the test."""
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("no_proxy", "example.org")


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def answering() -> Iterator[http.server.HTTPServer]:
    """A server that says 200 to /api/health, and 404 to all else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as server:
        yield server


def test_the_configured_server_is_used_and_none_is_started(
    answering: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(module, "start_supervised", start)
    wait_for(f"http://127.0.0.1:{answering.server_port}/api")


@pytest.mark.slow
def test_a_server_that_a_profile_of_prefect_names_is_used_and_no_other_one_starts(
    answering: http.server.HTTPServer, tmp_path: Path, root: Path
) -> None:
    url = f"http://127.0.0.1:{answering.server_port}/api"
    profile = f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{url}"\n'
    (tmp_path / "profiles.toml").write_text(profile)
    code = (
        "from flows import server; server.require_server_for_all(); server.start_server()();"
        "from prefect.settings import get_current_settings as now;"
        "print(now().api.url, now().flows.heartbeat_frequency)"
    )
    ours = ("PREFECT_API_URL", *HEARTBEAT)
    env = {key: value for key, value in os.environ.items() if key not in ours}
    env["PREFECT_HOME"] = str(tmp_path)
    asked = [sys.executable, "-c", code]
    # With heartbeats as seldom as Prefect's own, workers would take the run for lost.
    assert subprocess.check_output(asked, cwd=root, env=env, text=True).strip() == f"{url} 30"
    started = [sys.executable, "-m", "flows.server"]
    subprocess.run(started, cwd=root, env=env, check=True, timeout=WITHIN_S)
    assert not (tmp_path / "prefect.db").exists()


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (deploy, {}, "set PREFECT_API_URL to one that all of them reach"),
        (sweep, {}, "nothing to combine"),
        (sweep, {"seeds": "0..9", "recipe": "nowhere"}, "there is no recipe 'nowhere'"),
        (pipeline, {"recipe": "nowhere"}, "there is no recipe 'nowhere'"),
        (pipeline, {"override": ["sed=1"]}, "no 'sed' to override"),
    ],
)
def test_what_can_not_be_done_is_said_before_a_server_starts(
    command: Callable[..., None],
    options: dict[str, Any],
    message: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start() -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("flows.__main__.start_server", start)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(FlowError, match=message),
    ):
        command(**options, folder=root)


def test_loopback_goes_through_no_proxy_and_what_was_excepted_stays(
    answering: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing listens there

    wait_for(f"http://localhost:{answering.server_port}/api")

    assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"


def test_a_proxy_that_httpx_cant_use_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, proxy in {
        "ALL_PROXY": "SOCKS5://127.0.0.1:9", "all_proxy": "socks://127.0.0.1:9",
        "HTTPS_PROXY": "socks4://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, proxy)
    keep_loopback_from_proxies()
    assert not {"ALL_PROXY", "all_proxy", "HTTPS_PROXY"} & os.environ.keys()
    assert os.environ["http_proxy"] == "http://127.0.0.1:9"
    httpx.Client().close()  # raises at one that it can not use


_LOG = """
  File "alembic/script/base.py", line 239, in _catch_revision_errors
    raise util.CommandError(resolution) from re
alembic.util.exc.CommandError: Can't locate revision identified by 'ffffffffffff'

ERROR:    Application startup failed. Exiting.
Server stopped!
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (_LOG, "alembic.util.exc.CommandError: Can't locate revision identified by 'ffffffffffff'"),
        ("Starting\nPort 4200 is already in use.\n", "Port 4200 is already in use."),
        ("", "no answer within 120 s"),
    ],
)
def test_the_reason_is_found_in_the_servers_log(log: str, reason: str) -> None:
    assert _reason(log) == reason


def test_a_server_that_wants_a_key_is_asked_with_it() -> None:
    seen: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(200 if seen[-1] == "Bearer pnu_1" else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as server, temporary_settings({PREFECT_API_KEY: "pnu_1"}):
        wait_for(f"http://127.0.0.1:{server.server_port}/api")
    assert seen == ["Bearer pnu_1"]


@pytest.mark.parametrize("path", ["", "/elsewhere"])
def test_a_server_without_the_api_is_refused(path: str, answering: http.server.HTTPServer) -> None:
    url = f"http://127.0.0.1:{answering.server_port}{path}"
    with pytest.raises(FlowError, match=f"^the Prefect server at {url} does not answer"):
        wait_for(url)


def test_a_configured_server_that_does_not_answer_is_told() -> None:
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with pytest.raises(FlowError) as caught:
            wait_for(url)
    assert str(caught.value) == (
        f"the Prefect server at {url} does not answer (ConnectError): start it with 'prefect "
        f"server start', or unset PREFECT_API_URL"
    )


@pytest.mark.parametrize("url", ["nonsense", "http://half:port/api", "ftp://127.0.0.1/api"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(FlowError) as caught:
        wait_for(url)
    assert str(caught.value).startswith(f"the Prefect server at {url} does not answer (")


def test_a_server_that_is_started_in_the_folder_reports_to_nobody(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED", raising=False)
    monkeypatch.chdir(root)
    assert Settings().server.analytics_enabled is False

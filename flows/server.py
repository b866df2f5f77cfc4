"""The Prefect server that a run reports to: the configured one, else one as long as the run.

Prefect's own temporary server has no pages to watch the run on, and outlives a killed flow.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import httpx
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL

from fer_pipeline.errors import FlowError
from flows.process import end_supervised, start_supervised

STARTUP_TIMEOUT_S = 120.0
"""Seconds for a temporary server to start: the first start migrates a database."""


def start_server() -> Callable[[], None]:
    """Start a server that ends with this process, unless one is configured.

    It keeps its history where any other server of this user does (`PREFECT_HOME`): the next
    `prefect server start` shows the run.

    Returns:
        A function that returns when runs can be reported to the server, and raises FlowError if
        the server does not answer.
    """
    if PREFECT_API_URL.value():
        return _require_answer
    port = _free_port()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    refresh_global_settings_context()
    log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = start_supervised(command, Path.cwd(), {}, stdout=log)
    assert server.stdin is not None
    # Inherited by the crash reporter, so that a killed run can still be reported.
    os.set_inheritable(server.stdin.fileno(), True)

    def stop() -> None:
        server.terminate()
        end_supervised(server)
        log.close()

    # Prefect sends the rest of its log when the interpreter ends, and that is before this.
    atexit.register(stop)
    return partial(_wait_for_answer, server, log)


def _require_answer() -> None:
    if error := _health():
        raise FlowError(
            f"the Prefect server at {PREFECT_API_URL.value()} does not answer "
            f"({type(error).__name__}): start it with 'prefect server start', or unset "
            f"PREFECT_API_URL"
        ) from error


def _wait_for_answer(server: subprocess.Popen[str], log: IO[str]) -> None:
    end_at = time.monotonic() + STARTUP_TIMEOUT_S
    while _health():
        if time.monotonic() > end_at or server.poll() is not None:
            log.seek(0)
            lines = log.read().strip().splitlines() or ["it printed nothing"]
            raise FlowError(
                f"no temporary Prefect server within {STARTUP_TIMEOUT_S:.0f} s "
                f"({lines[-1][:200]}): start one with 'prefect server start' and set "
                f"PREFECT_API_URL"
            )
        time.sleep(0.1)


def _health() -> Exception | None:
    """Why the server takes no reports, asked with the configured key and certificates."""
    try:
        with get_client(httpx_settings={"timeout": 10.0}, sync_client=True) as client:
            return client.api_healthcheck()
    except (ValueError, httpx.InvalidURL, httpx.HTTPError) as error:  # the address may be none
        return error


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])

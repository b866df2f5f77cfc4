"""The Prefect server that a run reports to: the configured one, else one as long as the run.

Prefect's own temporary server has no pages to watch the run on, and outlives a killed flow.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, cast
from urllib.request import getproxies

import httpx
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from fer_pipeline.errors import FlowError, hide_password
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
    _keep_loopback_from_proxies()
    if PREFECT_API_URL.value():
        return _require_answer
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    refresh_global_settings_context()
    log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = start_supervised(command, Path.cwd(), {}, stdout=log)
    # Inherited by the crash reporter, so that a killed run can still be reported.
    os.set_inheritable(cast("IO[str]", server.stdin).fileno(), True)

    def stop() -> None:
        server.terminate()
        end_supervised(server)
        log.close()

    # Prefect sends the rest of its log when the interpreter ends, and that is before this.
    atexit.register(stop)
    return partial(_wait_for_answer, server, log)


def _keep_loopback_from_proxies() -> None:
    """Say so in `NO_PROXY`, for this process and those that it starts."""
    kept = getproxies().get("no", "")
    if kept != "*":
        kept = ",".join(filter(None, (kept, "127.0.0.1", "localhost", "::1")))
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = kept


def _require_answer() -> None:
    if error := _health():
        raise FlowError(
            f"the Prefect server at {hide_password(str(PREFECT_API_URL.value()))} does not answer "
            f"({type(error).__name__}): start it with 'prefect server start', or unset "
            f"PREFECT_API_URL"
        ) from error


def _wait_for_answer(server: subprocess.Popen[str], log: IO[str]) -> None:
    end_at = time.monotonic() + STARTUP_TIMEOUT_S
    while _health():
        if time.monotonic() > end_at or server.poll() is not None:
            log.seek(0)
            raise FlowError(
                f"the temporary Prefect server did not start: {_reason(log.read())}. Its database "
                f"is in {PREFECT_HOME.value()}; if that is another version's, set PREFECT_HOME to "
                f"a new folder, or set PREFECT_API_URL to a server that runs"
            )
        time.sleep(0.1)


def _reason(log: str) -> str:
    """The last exception in a server's log, else its last line."""
    lines = log.strip().splitlines() or [f"no answer within {STARTUP_TIMEOUT_S:.0f} s"]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit): ", line)]
    return (raised or lines)[-1].strip()


def _health() -> Exception | None:
    """Why the server takes no reports, asked with the configured key and certificates."""
    try:
        with get_client(httpx_settings={"timeout": 10.0}, sync_client=True) as client:
            return client.api_healthcheck()
    except (ValueError, httpx.InvalidURL, httpx.HTTPError) as error:  # the address may be none
        return error

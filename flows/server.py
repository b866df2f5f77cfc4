"""The Prefect server that a run reports to: the configured one, else one as long as the run."""

from __future__ import annotations

import atexit
import os
import socket
import tempfile
import time
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL

from flows.errors import FlowError
from flows.process import end, start_supervised

STARTUP_TIMEOUT_S = 120.0
"""A first start migrates a database, on a machine that may be busy."""

LINGER_S = 10.0
"""What a server has, after this process was killed, in which the guardian can tell it so."""


def start_server() -> Server:
    """Use the configured server, or begin to start one that ends with this process.

    That one keeps its history where any other of this user does (`PREFECT_HOME`): the next
    `prefect server start` shows the run. Unlike the temporary one of Prefect it has the pages, so
    that the run can be watched, and it ends even if this process is killed.
    """
    configured = PREFECT_API_URL.value()
    return Server(configured) if configured else _TemporaryServer()


class Server:
    """A server that somebody else runs."""

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url

    def wait_until_ready(self) -> None:
        """Return when it can be reported to.

        Raises:
            FlowError: it does not answer.
        """
        if error := _health():
            raise FlowError(
                f"the Prefect server at {self.api_url} does not answer ({type(error).__name__}): "
                f"start it with 'prefect server start', or unset PREFECT_API_URL"
            ) from error


class _TemporaryServer(Server):
    def __init__(self) -> None:
        port = _free_port()
        super().__init__(f"http://127.0.0.1:{port}/api")
        self._log = Path(tempfile.mkstemp(prefix="prefect-server-", suffix=".log")[1])
        with self._log.open("w") as stream:
            self._process = start_supervised(
                ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
                Path.cwd(),
                {"PREFECT_API_URL": self.api_url},
                *("--linger-s", str(LINGER_S)),
                stdout=stream,
            )
        # Prefect sends the rest of its log when the interpreter ends, and that is before this.
        atexit.register(self._stop)

    def wait_until_ready(self) -> None:
        end_at = time.monotonic() + STARTUP_TIMEOUT_S
        while not self._answers():
            if time.monotonic() > end_at or self._process.poll() is not None:
                said = self._log.read_text(errors="replace").strip().splitlines()
                raise FlowError(
                    f"no temporary Prefect server within {STARTUP_TIMEOUT_S:.0f} s "
                    f"({said[-1][:200] if said else 'it said nothing'}): start one with 'prefect "
                    f"server start' and set PREFECT_API_URL"
                )
            time.sleep(0.1)
        os.environ["PREFECT_API_URL"] = self.api_url  # for children, and for the line below
        refresh_global_settings_context()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.api_url}/health", timeout=2.0).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _stop(self) -> None:
        self._process.terminate()  # at once: the linger is for a lifeline that was cut
        end(self._process)
        self._log.unlink()


def _health() -> Exception | None:
    """What hinders reports to the configured server, with its key and certificates."""
    try:
        with get_client(httpx_settings={"timeout": 10.0}, sync_client=True) as client:
            return client.api_healthcheck()
    except (ValueError, httpx.InvalidURL, httpx.HTTPError) as error:  # no address at all
        return error


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])

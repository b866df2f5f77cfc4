"""The Prefect server that a run reports to: the configured one, else one as long as the run.

Prefect's own temporary server has no pages to watch the run on, and outlives a killed flow.

    python -m flows.server    that server: `prefect server start`, ready a second sooner

Its address is in `PREFECT_SERVER_API_HOST` and `PREFECT_SERVER_API_PORT`. Where Prefect's settings
name a server to report to, it ends at once: the run reports there.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.request import getproxies, urlopen

from fer_pipeline.errors import FlowError, hide_password
from flows.process import end_supervised, start_supervised

if TYPE_CHECKING:
    from prefect.settings.legacy import Setting

HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
"""The variable that makes Prefect's runs send heartbeats, and the seconds between them."""

_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",  # each command would start a process for it
    **HEARTBEAT,
}
_HOST = "127.0.0.1"
STARTUP_TIMEOUT_S = 120.0
"""Seconds for a temporary server to start: the first start migrates a database."""


def start_server() -> Callable[[], dict[Setting, Any]]:
    """Start a server that ends with this process, unless one is configured.

    It keeps its history where any other server of this user does (`PREFECT_HOME`): the next
    `prefect server start` shows the run.

    Returns:
        A function that returns when runs can be reported to the server, with Prefect's settings
        for them, and raises FlowError if the server does not answer.
    """
    keep_loopback_from_proxies()
    _set_defaults()
    # Before Prefect is imported here, because both take seconds. Where a file of Prefect names a
    # server, the process that was started sees that, too, and ends.
    started = None if os.environ.get("PREFECT_API_URL") else _start_temporary()
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if started is None or PREFECT_API_URL.value():
        return _require_answer
    os.environ["PREFECT_API_URL"] = f"http://{_HOST}:{started[2]}/api"
    refresh_global_settings_context()
    return partial(_wait_for_answer, *started)


def require_server_for_all() -> None:
    """
    Raises:
        FlowError: no server is configured; a temporary one is known to this process alone.
    """
    keep_loopback_from_proxies()
    _set_defaults()
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise FlowError(
            "flows and workers meet on a Prefect server: set PREFECT_API_URL to one that all of "
            "them reach, such as http://127.0.0.1:4200/api of 'prefect server start'"
        )


def _set_defaults() -> None:
    """In the environment, before Prefect reads it for the first time; what is set wins."""
    os.environ.update({**_DEFAULTS, **os.environ})


def _start_temporary() -> tuple[subprocess.Popen[str], IO[str], int]:
    """Start a server; gives its process, its log and its port."""
    with socket.socket() as one:
        one.bind((_HOST, 0))
        port = one.getsockname()[1]
    log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    address = {"PREFECT_SERVER_API_HOST": _HOST, "PREFECT_SERVER_API_PORT": str(port)}
    command = [sys.executable, "-m", "flows.server"]
    server = start_supervised(command, Path.cwd(), address, stdout=log)
    # Inherited by the crash reporter, so that a killed run can still be reported.
    os.set_inheritable(cast("IO[str]", server.stdin).fileno(), True)

    def stop() -> None:
        server.terminate()
        end_supervised(server)
        log.close()

    # Prefect sends the rest of its log when the interpreter ends, and that is before this.
    atexit.register(stop)
    return server, log, port


def keep_loopback_from_proxies() -> None:
    """Say so in `NO_PROXY`, for this process and those that it starts.

    A SOCKS proxy that httpx, by which Prefect talks, can't use leaves the environment: at such a
    one it fails even where no proxy is asked.
    """
    kept = getproxies().get("no", "")
    if kept != "*":
        kept = ",".join(filter(None, (kept, "127.0.0.1", "localhost", "::1")))
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = kept
    usable = ("socks5://", "socks5h://") if find_spec("socksio") else ()
    for variable in [one for one in os.environ if one.lower().endswith("_proxy")]:
        proxy = os.environ[variable].lower()
        if proxy.startswith("socks") and not proxy.startswith(usable):
            del os.environ[variable]


def _require_answer() -> dict[Setting, Any]:
    from prefect.settings import PREFECT_API_URL

    if error := _health():
        raise FlowError(
            f"the Prefect server at {hide_password(str(PREFECT_API_URL.value()))} does not answer "
            f"({type(error).__name__}): start it with 'prefect server start', or unset "
            f"PREFECT_API_URL"
        ) from error
    return {}


def _wait_for_answer(server: subprocess.Popen[str], log: IO[str], port: int) -> dict[Setting, Any]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME

    end_at = time.monotonic() + STARTUP_TIMEOUT_S
    while not answers(f"http://{_HOST}:{port}/api/health"):
        if time.monotonic() > end_at or server.poll() is not None:
            log.seek(0)
            raise FlowError(
                f"the temporary Prefect server did not start: {_reason(log.read())}. Its database "
                f"is in {PREFECT_HOME.value()}; if that is another version's, set PREFECT_HOME to "
                f"a new folder, or set PREFECT_API_URL to a server that runs"
            )
        time.sleep(0.02)
    # Nobody waits for them where no server outlives the run, and Prefect ends their thread in up
    # to a second.
    return {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}


def answers(address: str) -> bool:
    """Whether a server says at this address that all is well."""
    try:
        with urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def _reason(log: str) -> str:
    """The last exception in a server's log, else its last line."""
    lines = log.strip().splitlines() or [f"no answer within {STARTUP_TIMEOUT_S:.0f} s"]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit): ", line)]
    return (raised or lines)[-1].strip()


def _health() -> Exception | None:
    """Why the server takes no reports, asked with the configured key and certificates."""
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(httpx_settings={"timeout": 10.0}, sync_client=True) as client:
            return client.api_healthcheck()
    except (ValueError, httpx.InvalidURL, httpx.HTTPError) as error:  # the address may be none
        return error


def main() -> None:
    gc.disable()  # imports make objects by the hundred thousand, and hardly any garbage
    import prefect.settings

    settings = prefect.settings.get_current_settings()
    if settings.api.url:
        return
    import uvicorn
    from prefect.server.api.server import create_app

    # Settings of the user's for a server that others reach, too.
    for_others = {
        prefect.settings.PREFECT_SERVER_API_AUTH_STRING,
        prefect.settings.PREFECT_SERVER_API_BASE_PATH,
    }
    with prefect.settings.temporary_settings(restore_defaults=for_others):
        app = create_app()
        gc.freeze()
        gc.enable()
        api = settings.server.api
        uvicorn.run(app, host=api.host, port=api.port, log_level="warning")


if __name__ == "__main__":
    main()

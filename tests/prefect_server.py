"""A real Prefect server for tests, and the few questions that they ask it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests
from processes import WITHIN_S, end_tree, wait_until
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from flows.server import answers

_SERVICES = {
    # What is due is looked for often, because tests wait for it, and not for months to come.
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "3",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "1",
}


class PrefectServer:
    """One server with a home of its own; everything that it started ends with `stop`.

    With a port it is one that somebody else has started there.
    """

    def __init__(self, home: Path, port: int | None = None) -> None:
        self._home = home
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port = port or one.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        # Busy with its database, the server answers 503 and has done nothing: Prefect's own client
        # tries again too.
        busy = Retry(status=8, status_forcelist=[503], allowed_methods=None, backoff_factor=0.2)
        self._session = requests.Session()
        self._session.mount("http://", HTTPAdapter(max_retries=busy))

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    def env(self) -> dict[str, str]:
        """What a process needs to report to it, and to send nothing elsewhere."""
        return {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self._home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def start(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "prefect", "server", "start"),
                    *("--host", "127.0.0.1", "--port", str(self._port), "--no-ui"),
                ],
                env=os.environ | self.env() | _SERVICES,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: answers(f"{self.api}/health"), "the Prefect server answers")

    def stop(self) -> None:
        if self._process is not None:
            end_tree(self._process.pid)
            self._process.wait()

    def get(self, path: str) -> Any:
        return self._send("GET", path)

    def ask(self, path: str, **body: Any) -> Any:
        """The answer to a POST, such as the filters."""
        return self._send("POST", path, body)

    def ask_list(self, path: str, body: list[Any]) -> Any:
        """The same for what takes a list."""
        return self._send("POST", path, body)

    def change(self, path: str, **body: Any) -> None:
        """Change some of the values of something."""
        self._send("PATCH", path, body)

    def flow_runs(self, **name_to_value: str) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        runs: list[dict[str, Any]] = self.ask("/flow_runs/filter", sort="START_TIME_DESC")
        return [run for run in runs if all(run[key] == name_to_value[key] for key in name_to_value)]

    def state(self, flow_run_id: str) -> dict[str, Any]:
        state: dict[str, Any] = self.get(f"/flow_runs/{flow_run_id}")["state"]
        return state

    def tasks(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """The state of each task of a run, by name."""
        tasks = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}})
        return {task["name"]: task["state"] for task in tasks}

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        found = self.ask("/artifacts/filter", flow_runs={"id": {"any_": [flow_run_id]}})
        return {one["key"]: one for one in found}

    def cancel(self, flow_run_id: str) -> None:
        self.ask(
            f"/flow_runs/{flow_run_id}/set_state",
            state={"type": "CANCELLING", "name": "Cancelling"},
        )

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._session.request(method, f"{self.api}{path}", json=body, timeout=WITHIN_S)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

"""The automations in docs/automations on a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from flow_bench import FlowBench, last_line
from fused_model import NAME, SMALL, draw_test_split, make_bundle, register_bundle
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import PrefectServer
from processes import wait_until
from ruamel.yaml import YAML

from fer_pipeline.params.schema import Params
from fer_pipeline.registry.tracking import connect

pytestmark = pytest.mark.slow

Inbox = list[dict[str, Any]]


@pytest.fixture(scope="module")
def notices(
    root: Path, tmp_path_factory: pytest.TempPathFactory, server: PrefectServer
) -> Iterator[Inbox]:
    """What comes where the automations of `docs/automations`, all of them, send notices."""
    came: Inbox = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listener.serve_forever, daemon=True).start()
    _make_automations(root, tmp_path_factory, server, f"http://127.0.0.1:{listener.server_port}/")
    yield came
    listener.shutdown()
    listener.server_close()


def _make_automations(
    root: Path, tmp_path_factory: pytest.TempPathFactory, server: PrefectServer, inbox: str
) -> None:
    """As docs/flows.md says, of three files at once."""
    with temporary_settings({PREFECT_API_URL: server.api}):
        block = CustomWebhookNotificationBlock(
            name="fer-alerts", url=inbox, json_data={"text": "{{subject}}: {{body}}"}
        ).save("fer-alerts", overwrite=True)
    yaml = YAML(typ="safe")
    listed = []
    for file in (root / "docs/automations").glob("*.yaml"):
        text = file.read_text().replace("BLOCK_ID", str(block))
        listed += yaml.load(text)["automations"]
    made = tmp_path_factory.mktemp("automations") / "all.yaml"
    yaml.dump({"automations": listed}, made)
    command = [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(made)]
    env = os.environ | server.env()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_failed_run_is_told_of(bench: FlowBench, notices: Inbox) -> None:
    notices.clear()
    bench.plan(train_b={"fails": "the faces are upside down"})

    assert bench.run_here().is_failed()

    wait_until(lambda: notices, "the notice comes")
    assert bench.newest_run()["name"] in notices[0]["text"]
    assert "the faces are upside down" in notices[0]["text"]


def test_faces_that_have_drifted_are_told_of_and_end_the_run_as_drifted(
    root: Path,
    tmp_path: Path,
    bench: FlowBench,
    params: Params,
    small: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    notices: Inbox,
) -> None:
    notices.clear()
    shutil.copy(root / "params.yaml", bench.folder)
    shutil.copy(empty_database, bench.folder)
    bench.workspace.env["PYTHONPATH"] = f"{small}{os.pathsep}{bench.workspace.env['PYTHONPATH']}"
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{bench.folder / 'mlflow.db'}")
    seen = draw_test_split(images=40)
    bundle = make_bundle(params, tmp_path / "made", SMALL[:1])
    register_bundle(connect("fer2013"), bundle, seen)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    incoming = bench.folder / f"in/{yesterday:%Y-%m-%d}.npz"
    incoming.parent.mkdir()

    np.savez(incoming, images=seen.images)
    state = bench.run_here("score", source="in/%Y-%m-%d.npz", model="1")
    assert state.name == "Completed"
    assert str(state.message).startswith(f"40 faces by {NAME} version 1: no drift")

    np.savez(incoming, images=seen.images // 4)
    status, output = bench.run("score", "in/%Y-%m-%d.npz", "--model", "1")
    assert status == 0, output
    assert last_line(output).startswith(f"40 faces by {NAME} version 1: drifted: ")
    run = bench.newest_run()
    assert run["state"]["message"] == last_line(output)
    assert run["state"]["name"] == "Drifted"
    assert run["name"] == f"in/{yesterday:%Y-%m-%d}.npz by 1"
    wait_until(lambda: notices, "the notice comes")
    assert [one["text"] for one in notices] == [f"faces have drifted: {run['state']['message']}"]


def test_the_automation_on_lost_runs_is_taken(server: PrefectServer, notices: Inbox) -> None:
    names = [one["name"] for one in server.ask("/automations/filter")]
    assert "runs without heartbeat" in names


def test_every_state_that_a_flow_ends_in_ends_the_wait_for_its_heartbeat(root: Path) -> None:
    flows = "".join(
        (root / f"flows/{name}.py").read_text()
        for name in ("ingest", "pipeline", "promotion", "score")
    )
    own = set(re.findall(r'\(\s*name="(\w+)", message=', flows))
    own.remove("Cached")  # which is a state of tasks
    assert "Unchanged" in own
    lost = YAML(typ="safe").load((root / "docs/automations/lost-runs.yaml").read_text())
    awaited = lost["automations"][0]["trigger"]["expect"]
    ends = own | {"Completed", "Failed", "Cancelled", "Crashed"}
    assert {f"prefect.flow-run.{name}" for name in ends} < set(awaited)

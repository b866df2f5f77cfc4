"""The automations in docs/automations on a real server."""

from __future__ import annotations

import json
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
from fused_model import NAME, draw_test_split, make_bundle, register_bundle
from processes import wait_until
from ruamel.yaml import YAML

from fer_pipeline.params.schema import Params
from fer_pipeline.registry.tracking import connect

pytestmark = pytest.mark.slow

_MAKE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
block = CustomWebhookNotificationBlock(
    name="fer-alerts", url=sys.argv[1], json_data={"text": "{{subject}}: {{body}}"}
)
print(block.save("fer-alerts", overwrite=True))
"""


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that takes notices, and those that came."""
    came: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}/", came
    listener.shutdown()
    listener.server_close()


def test_a_failed_run_is_told_of(
    root: Path, tmp_path: Path, bench: FlowBench, inbox: tuple[str, list[dict[str, Any]]]
) -> None:
    address, came = inbox
    block = _python(bench, "-c", _MAKE_BLOCK, address).strip().splitlines()[-1]
    notice = (root / "docs/automations/failure-notice.yaml").read_text()
    (tmp_path / "notice.yaml").write_text(notice.replace("BLOCK_ID", block))
    _create(bench, tmp_path / "notice.yaml")
    bench.plan(train_b={"fails": "the faces are upside down"})

    status, _ = bench.run()

    assert status == 1
    wait_until(lambda: came, 30, "the notice comes")
    assert bench.newest_run()["name"] in came[0]["text"]
    assert "the faces are upside down" in came[0]["text"]


def test_faces_that_have_drifted_are_told_of_and_end_the_run_as_drifted(
    root: Path,
    tmp_path: Path,
    bench: FlowBench,
    params: Params,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    inbox: tuple[str, list[dict[str, Any]]],
) -> None:
    address, came = inbox
    block = _python(bench, "-c", _MAKE_BLOCK, address).strip().splitlines()[-1]
    notice = (root / "docs/automations/drift-notice.yaml").read_text()
    (tmp_path / "notice.yaml").write_text(notice.replace("BLOCK_ID", block))
    _create(bench, tmp_path / "notice.yaml")
    shutil.copy(root / "params.yaml", bench.folder)
    shutil.copy(empty_database, bench.folder)
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{bench.folder / 'mlflow.db'}")
    seen = draw_test_split(images=40)
    bundle = make_bundle(params, tmp_path / "made", ("resnet50",))
    register_bundle(connect("fer2013"), bundle, seen)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    incoming = bench.folder / f"in/{yesterday:%Y-%m-%d}.npz"
    incoming.parent.mkdir()

    for images, said in ((seen.images, "no drift"), (seen.images // 4, "drifted: ")):
        np.savez(incoming, images=images)
        status, output = bench.run("score", "in/%Y-%m-%d.npz", "--model", "1")
        assert status == 0, output
        assert last_line(output).startswith(f"40 faces by {NAME} version 1: {said}")
        run = bench.newest_run()
        assert run["state"]["message"] == last_line(output)

    assert run["state"]["name"] == "Drifted"
    assert run["name"] == f"in/{yesterday:%Y-%m-%d}.npz by 1"
    wait_until(lambda: came, 30, "the notice comes")
    assert [one["text"] for one in came] == [f"faces have drifted: {run['state']['message']}"]


def test_the_automation_on_lost_runs_is_taken(root: Path, bench: FlowBench) -> None:
    _create(bench, root / "docs/automations/lost-runs.yaml")

    names = [one["name"] for one in bench.server.ask("/automations/filter")]
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


def _create(bench: FlowBench, file: Path) -> None:
    _python(bench, "-m", "prefect", "automation", "create", "--from-file", str(file))


def _python(bench: FlowBench, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=bench.folder,
        env=bench.workspace.env | bench.server.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

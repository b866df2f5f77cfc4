"""prefect.yaml on a real server with a real worker: schedules, the event, and cancelling."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flow_bench import FlowBench, make_bench
from prefect_server import PrefectServer
from processes import FOREVER_S, WITHIN_S, end_tree, processes_with, wait_until

from fer_pipeline.errors import FlowError
from flows.deploy import deploy

pytestmark = pytest.mark.slow

"""The server looks for late runs, the worker for due ones, and the flow's process starts."""


@pytest.fixture(scope="module")
def bench(
    root: Path, tmp_path_factory: pytest.TempPathFactory, server: PrefectServer
) -> Iterator[FlowBench]:
    """A project whose prefect.yaml is deployed, and a worker in its folder."""
    bench = make_bench(root, tmp_path_factory.mktemp("deployed") / "bench", server)
    env = bench.workspace.env | server.env()
    status, output = bench.run("deploy")
    assert status == 0, output
    worker = subprocess.Popen(
        [*(sys.executable, "-m", "prefect", "worker", "start"), *("--pool", "fer")],
        cwd=bench.folder,
        env=env | {"PREFECT_WORKER_QUERY_SECONDS": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield bench
    end_tree(worker.pid)
    worker.wait()


@pytest.fixture(autouse=True)
def _fresh(bench: FlowBench) -> None:
    bench.plan()
    bench.forget()


def test_each_cron_becomes_scheduled_runs(bench: FlowBench) -> None:
    def due(deployment: str, days: float) -> bool:
        starts = [
            datetime.fromisoformat(run["expected_start_time"])
            for run in _runs(bench, deployment)
            if run["state"]["type"] == "SCHEDULED" and run["auto_scheduled"]
        ]
        return bool(starts) and min(starts) - datetime.now(UTC) < timedelta(days=days)

    wait_until(lambda: due("ingest/daily", 1), "tomorrow's ingest is scheduled")
    wait_until(lambda: due("pipeline/weekly", 7), "next week's pipeline is scheduled")
    assert not _runs(bench, "promotion/by-hand")
    assert not _runs(bench, "score/nightly")  # until somebody says where new faces come in


def test_a_schedule_fires(bench: FlowBench) -> None:
    anchor = datetime.now(UTC) + timedelta(seconds=5)
    schedule = {"interval": 86400.0, "anchor_date": anchor.isoformat(), "timezone": "UTC"}
    made = bench.server.ask_list(
        f"/deployments/{_deployment(bench, 'pipeline/weekly')['id']}/schedules",
        [{"active": True, "schedule": schedule, "parameters": {"targets": ["prepare"]}}],
    )
    assert made

    run = _completed(bench, "pipeline/weekly", lambda run: bool(run["auto_scheduled"]))

    assert bench.notes()["prepare", "end"]["at"] > anchor.timestamp()
    assert run["state"]["message"] == "1 stages ran, 0 were up to date."


def test_the_event_of_new_data_starts_the_pipeline(bench: FlowBench) -> None:
    before = {run["id"] for run in _runs(bench, "pipeline/weekly")}
    for folder in ("/another/clone", str(bench.folder)):
        _send(bench, "fer-fusion.source.updated", "fer-fusion.source", folder)

    run = _completed(bench, "pipeline/weekly", lambda run: run["id"] not in before)

    assert run["created_by"]["type"] == "AUTOMATION"
    assert len(_runs(bench, "pipeline/weekly")) == len(before) + 1  # not for the other's


def test_another_folder_is_deployed_beside_and_takes_nothing_over(
    bench: FlowBench, root: Path, tmp_path: Path
) -> None:
    other = make_bench(root, tmp_path / "other", bench.server)

    with other.here():
        taken = f"the deployment ingest/daily works in {bench.folder}: give these another name"
        with pytest.raises(FlowError, match=f"^{taken}"):
            deploy(other.folder, "theirs", "", take_over=False)
        deploy(other.folder, "theirs", "-other", take_over=False)
    for name, pool, folder in (
        ("pipeline/weekly", "fer", bench.folder),
        ("pipeline/weekly-other", "theirs", other.folder),
    ):
        found = _deployment(bench, name)
        assert found["work_pool_name"] == pool
        assert str(folder) in found["description"]
        assert str(folder) in str(found["pull_steps"])


def test_one_deployment_at_a_time_works_in_the_folder_until_it_is_cancelled(
    bench: FlowBench,
) -> None:
    bench.plan(train_a={"seconds": FOREVER_S}, train_b={"seconds": FOREVER_S})
    pipeline = _start(bench, "pipeline/weekly", force=True)
    bench.wait_until_begun("train@a", "train@b")

    ingest = _start(bench, "ingest/daily")
    promotion = _start(bench, "promotion/by-hand")

    wait_until(lambda: _type(bench, promotion) != "SCHEDULED", "it starts")
    assert _type(bench, ingest) == "SCHEDULED"  # though it was the first of the two
    bench.server.cancel(pipeline)
    wait_until(
        lambda: not [one for one in processes_with(f"{bench.folder}/") if "step.py" in one],
        "no training is left",
    )
    wait_until(lambda: bench.server.state(pipeline)["name"] == "Cancelled", "it is cancelled")
    wait_until(lambda: _type(bench, ingest) == "FAILED", "nothing is pinned")
    wait_until(lambda: _type(bench, promotion) == "FAILED", "no registry")
    assert bench.is_free()


def _deployment(bench: FlowBench, name: str) -> dict[str, Any]:
    found: dict[str, Any] = bench.server.get(f"/deployments/name/{name}")
    return found


def _start(bench: FlowBench, deployment: str, **parameters: Any) -> str:
    """Ask for a run; gives its id."""
    made = bench.server.ask(
        f"/deployments/{_deployment(bench, deployment)['id']}/create_flow_run",
        state={"type": "SCHEDULED"},
        parameters=parameters,
    )
    return str(made["id"])


def _type(bench: FlowBench, run: str) -> str:
    return str(bench.server.state(run)["type"])


def _runs(bench: FlowBench, deployment: str) -> list[dict[str, Any]]:
    """Of this deployment alone: the server lists 200 at most, and what is scheduled comes first."""
    number = _deployment(bench, deployment)["id"]
    runs: list[dict[str, Any]] = bench.server.ask(
        "/flow_runs/filter", deployments={"id": {"any_": [number]}}
    )
    return runs


def _completed(bench: FlowBench, deployment: str, which: Any) -> dict[str, Any]:
    """Wait for a run that is one of `which` to complete."""

    def find() -> dict[str, Any] | None:
        runs = [run for run in _runs(bench, deployment) if which(run)]
        ended = [run for run in runs if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")]
        return ended[0] if ended else None

    run: dict[str, Any] = wait_until(find, f"a run of {deployment}")
    assert run["state"]["type"] == "COMPLETED", run["state"]
    return run


def test_drift_starts_ingest_where_that_is_switched_on(bench: FlowBench) -> None:
    def by_event() -> list[dict[str, Any]]:
        runs = _runs(bench, "ingest/daily")
        return [run for run in runs if (run["created_by"] or {}).get("type") == "AUTOMATION"]

    found = bench.server.ask("/automations/filter", limit=200)
    named = [one for one in found if one["name"] == "ingest after drift" and not one["enabled"]]
    assert named
    for one in named:
        bench.server.change(f"/automations/{one['id']}", enabled=True)

    def due() -> list[dict[str, Any]]:  # an event before the server has noted the change is lost
        _send(bench, "fer-fusion.drift", "fer-fusion.model", str(bench.folder))
        time.sleep(2)
        return by_event()

    for run in wait_until(due, "an ingest is due"):
        bench.server.cancel(run["id"])


def _send(bench: FlowBench, event: str, resource: str, folder: str) -> None:
    about = {"prefect.resource.id": resource, "fer-fusion.folder": folder}
    now = {"occurred": datetime.now(UTC).isoformat(), "id": str(uuid4())}
    bench.server.ask_list("/events", [{**now, "event": event, "resource": about}])


def test_a_worker_that_a_script_started_with_an_ampersand_ends_when_it_is_told(
    bench: FlowBench, server: PrefectServer
) -> None:
    command = [sys.executable, "-m", "flows", "worker", "--pool", "ended", "--limit", "1"]
    with subprocess.Popen(
        command,
        cwd=bench.folder,
        env=bench.workspace.env | server.env() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as the shell does
    ) as worker:
        try:
            assert worker.stdout is not None
            assert any("started!" in line for line in worker.stdout)
            worker.terminate()
            worker.wait(WITHIN_S)
        finally:
            worker.kill()

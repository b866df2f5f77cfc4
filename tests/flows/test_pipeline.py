"""The flow `pipeline` on a real server, with real DVC stages in real processes."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from flow_bench import FlowBench, last_line, make_bench
from prefect_server import PrefectServer
from processes import FOREVER_S, WITHIN_S, assert_none_left, output_of, processes_with, wait_until
from ruamel.yaml import YAML

from flows.session import LOCK
from flows.slots import take_lock

"""After a run's end, of whatever kind, nothing of it is left; seconds, on a busy machine."""

FOREVER: dict[str, Any] = {"seconds": FOREVER_S}

pytestmark = pytest.mark.slow


def test_trainings_run_at_the_same_time_and_every_stage_after_its_parents(
    root: Path, tmp_path: Path, server: PrefectServer
) -> None:
    bench = make_bench(root, tmp_path / "bench", server, names=("a", "b", "c"))
    bench.plan(
        **{f"train_{name}": {"together": 3} for name in "bc"}, train_a={"together": 3, "epochs": 2}
    )
    bench.workspace.env["CUDA_VISIBLE_DEVICES"] = "1,4,6"

    status, output = bench.run()

    assert status == 0, output
    notes = bench.notes()
    trainings = [f"train@{name}" for name in "abc"]
    assert notes["prepare", "end"]["at"] < min(notes[name, "begin"]["at"] for name in trainings)
    assert notes["calibrate", "begin"]["at"] > max(notes[name, "end"]["at"] for name in trainings)
    gpus = {notes[name, "begin"]["CUDA_VISIBLE_DEVICES"] for name in trainings}
    assert gpus == {"1", "4", "6"}  # each has one of its own
    run = bench.newest_run()
    assert run["state"]["message"] == "5 stages ran, 0 were up to date."
    assert {task["name"] for task in server.tasks(run["id"]).values()} == {"Completed"}
    progress = server.artifacts(run["id"])["fer-progress-train-a"]
    assert progress["data"] == 100.0
    assert "val 20.00%" in progress["description"]

    bench.forget()

    state = bench.run_here()

    assert (state.name, state.message) == ("Unchanged", "Everything is up to date.")
    assert bench.notes() == {}
    run = bench.newest_run()
    assert run["state"]["name"] == "Unchanged"

    def all_cached() -> bool:  # Prefect sends the states of tasks a little later
        return {task["name"] for task in server.tasks(run["id"]).values()} == {"Cached"}

    wait_until(all_cached, "the tasks are known to have changed nothing")
    assert "up to date" in bench.workspace.check("dvc", "repro")  # DVC sees it the same way


def test_a_failure_stops_what_needs_it_and_nothing_else(bench: FlowBench) -> None:
    bench.change("flows/process.py", "BACKOFF_S = 10.0", "BACKOFF_S = 0.5")
    bench.plan(
        train_a={"fails_once": True},
        train_b={"fails": "the faces are upside down"},
        endless=FOREVER,
    )
    path = bench.folder / "dvc.yaml"
    graph = YAML().load(path.read_text())
    graph["stages"]["endless"] = {
        "cmd": "python step.py endless",
        "deps": ["out/prepare"],
        "outs": ["out/endless"],
        "meta": {"deadline_h": 3 / 3600},
    }
    YAML().dump(graph, path)

    status, output = bench.run()

    assert status == 1
    last = last_line(output)
    assert "train@b failed: the faces are upside down" in last
    assert "endless was ended after its deadline" in last
    assert "(not run: calibrate)" in last
    assert "Traceback" not in output
    tasks = bench.server.tasks(bench.newest_run()["id"])
    assert {name: state["name"] for name, state in tasks.items()} == {
        "prepare": "Completed",
        "train@a": "Completed",  # the second time: the server was away for a moment
        "train@b": "Failed",
        "endless": "Failed",
        "calibrate": "NotReady",
    }
    assert ("calibrate", "begin") not in bench.notes()
    assert not processes_with(f"{bench.folder}/")

    graph["stages"]["endless"]["meta"]["deadline_h"] = 1
    YAML().dump(graph, path)
    bench.plan()
    bench.forget()

    assert bench.run_here().is_completed()

    begun = {stage for stage, what in bench.notes() if what == "begin"}
    assert begun == {"train@b", "endless", "calibrate"}


def test_cancelling_leaves_nothing_and_the_next_run_goes_on(bench: FlowBench) -> None:
    bench.plan(train_a=FOREVER | {"checkpoint": True}, train_b=FOREVER)
    process = bench.start("pipeline", "--target", "train")
    bench.wait_until_begun("train@a", "train@b")
    run = bench.newest_run()

    refused = bench.run_here(wait_for_workspace_s=0)  # nobody else gets in meanwhile
    assert refused.is_failed()
    assert f"flow run '{run['name']}' works in" in str(refused.message)

    bench.server.cancel(run["id"])

    wait_until(lambda: not _others_in(bench, process), "no child is left")
    output_of(process)
    assert bench.server.state(run["id"])["name"] == "Cancelled"
    assert process.returncode == 1
    bench.plan(train_a={"checkpoint": True})
    assert bench.run_here(wait_for_workspace_s=0, targets=["train@a"]).is_completed()
    assert (bench.folder / "checkpoint-train@a").read_text() == "2"
    assert ("calibrate", "begin") not in bench.notes()


def test_cancelling_ends_a_run_that_waits_for_the_folder(bench: FlowBench) -> None:
    lock = take_lock(bench.folder / LOCK, "somebody")
    assert lock is not None
    began = {run["id"] for run in bench.server.flow_runs()}

    def waiting() -> dict[str, Any] | None:
        runs = (run for run in bench.server.flow_runs() if run["id"] not in began)
        return next((run for run in runs if run["state"]["type"] == "RUNNING"), None)

    def cancel() -> str:
        run = wait_until(waiting, "the run waits")
        bench.server.cancel(run["id"])
        return str(run["id"])

    with ThreadPoolExecutor() as pool, lock:
        cancelling = pool.submit(cancel)
        state = bench.run_here(wait_for_workspace_s=FOREVER_S)

    assert (state.name, state.message) == ("Cancelled", "The run was cancelled.")
    assert bench.server.state(cancelling.result())["name"] == "Cancelled"


def test_a_killed_flow_leaves_neither_child_nor_lock_nor_a_run_that_runs_for_ever(
    bench: FlowBench,
) -> None:
    bench.plan(train_a=FOREVER, train_b=FOREVER)
    process = bench.start("pipeline", "--target", "train")
    bench.wait_until_begun("train@a", "train@b")
    run = bench.newest_run()

    process.kill()
    output_of(process)

    wait_until(bench.is_free, "the folder's lock is free")
    assert_none_left(f"{bench.folder}/")
    state = wait_until(
        lambda: (now := bench.server.state(run["id"]))["type"] != "RUNNING" and now,
        "the run is known to be dead",
    )
    assert state["name"] == "Crashed"
    wait_until(
        lambda: "RUNNING" not in {s["type"] for s in bench.server.tasks(run["id"]).values()},
        "so are its tasks",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_flow_ends_its_children(bench: FlowBench, number: signal.Signals) -> None:
    bench.plan(prepare=FOREVER)
    process = bench.start("pipeline", "--target", "prepare")
    bench.wait_until_begun("prepare")

    process.send_signal(number)

    output = output_of(process)
    assert process.returncode == 130, output
    assert not processes_with(f"{bench.folder}/")
    state = bench.server.state(bench.newest_run()["id"])
    assert state["type"] in ("CRASHED", "CANCELLED")


@pytest.fixture
def alone(root: Path, tmp_path: Path, empty_history: Path) -> FlowBench:
    """A project whose flows have no server, only a place for one to keep its history."""
    shutil.copytree(empty_history, tmp_path / "prefect")
    return make_bench(root, tmp_path / "bench", _Home(tmp_path / "prefect"), names=("a",))


def test_without_a_server_a_flow_starts_one_and_ends_it(alone: FlowBench, tmp_path: Path) -> None:
    # Nothing listens there; loopback goes through no proxy.
    alone.workspace.env.update(HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="socks://127.0.0.1:9")
    # For servers that all reach: one with a password, behind others' pages.
    alone.workspace.env.update(
        PREFECT_SERVER_API_AUTH_STRING="admin:pass", PREFECT_SERVER_API_BASE_PATH="/prefect"
    )

    status, output = alone.run("pipeline", "--target", "prepare")

    assert status == 0, output
    assert last_line(output) == "1 stages ran, 0 were up to date."
    assert "View at http://127.0.0.1:" in output
    assert "temporary server" not in output  # Prefect's own, which has no pages
    assert not processes_with(f"{alone.folder}/")
    assert _history(tmp_path / "prefect") == ["COMPLETED"]


def test_the_server_of_a_killed_flow_has_pages_and_ends_when_the_run_is_reported(
    alone: FlowBench, tmp_path: Path
) -> None:
    alone.plan(prepare=FOREVER)
    process = alone.start()
    alone.wait_until_begun("prepare")
    (address,) = {
        f"http://127.0.0.1:{one.laddr.port}/"
        for child in psutil.Process(process.pid).children(recursive=True)
        for one in child.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    page = requests.get(address, timeout=WITHIN_S)
    assert page.headers["content-type"].startswith("text/html")

    process.kill()
    output_of(process)

    assert_none_left(f"{alone.folder}/")
    assert _history(tmp_path / "prefect") == ["CRASHED"]


def test_a_server_that_does_not_start_is_told_of_with_its_reason(
    alone: FlowBench, tmp_path: Path
) -> None:
    home = tmp_path / "prefect"
    (home / "prefect.db").write_text("This is the database of another program altogether.")

    status, output = alone.run()

    assert status == 1
    assert last_line(output).startswith(
        "error: the temporary Prefect server did not start: sqlalchemy.exc.DatabaseError: "
        f"(sqlite3.DatabaseError) file is not a database. Its database is in {home}; "
    )


def _history(home: Path) -> list[str]:
    """The states of all flow runs of a server that has ended."""
    with closing(sqlite3.connect(home / "prefect.db")) as history:
        return [state for (state,) in history.execute("select state_type from flow_run")]


class _Home(PrefectServer):
    """No server, only where one would keep its history."""

    def env(self) -> dict[str, str]:
        return {key: value for key, value in super().env().items() if key != "PREFECT_API_URL"}


def _others_in(bench: FlowBench, flow: subprocess.Popen[str]) -> list[str]:
    """The processes in the bench's folder but the flow's own and its crash reporter's."""
    return [
        line
        for line in processes_with(f"{bench.folder}/")
        if not line.startswith(f"{flow.pid} ") and "flows.runs" not in line
    ]

"""Stages on workers in clones of their own: what they bring back, and how runs and workers end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flow_bench import FlowBench, last_line, make_bench
from prefect.client.schemas.objects import FlowRun, State
from prefect_server import PrefectServer
from processes import FOREVER_S, assert_none_left, end_tree, kill_where, output_of, wait_until
from s3_server import S3Server

from fer_pipeline.errors import FlowError
from flows.deploy import deploy_stage
from flows.orders import RESULT_LABEL
from flows.workers import _result

pytestmark = pytest.mark.slow

POOL = "workers"
WITH_WORKERS = ("pipeline", "--workers", "--pool", POOL)
"""A minute without a heartbeat, and the time to begin again on another worker."""


@dataclass
class Machines:
    """A project with a remote, and a worker in each of two clones of it."""

    bench: FlowBench
    s3: S3Server
    clones: list[Path]
    workers: list[subprocess.Popen[bytes]]

    def start(self, clone: Path) -> None:
        env = self.bench.workspace.env | self.bench.server.env() | {"PYTHONUNBUFFERED": "1"}
        env["PYTHONPATH"] = f"{clone}{os.pathsep}{env['PYTHONPATH']}"  # its own flows
        with (clone.parent / f"{clone.name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "flows",
                    "worker",
                    "--limit",
                    "1",
                    "--pool",
                    POOL,
                    "--folder",
                    str(clone),
                ],
                cwd=clone,
                env=env,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)

    def run(self, **parameters: Any) -> State[None]:
        return self.bench.run_here(**{"where": "workers", "pool": POOL, **parameters})

    def log(self) -> str:
        """What all workers have said."""
        return "".join((clone.parent / f"{clone.name}.log").read_text() for clone in self.clones)


@pytest.fixture(scope="module")
def machines(
    root: Path, tmp_path_factory: pytest.TempPathFactory, server: PrefectServer
) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    with S3Server(folder / "s3", ["dvc"]) as s3:
        bench = make_bench(root, folder / "bench", server)
        bench.workspace.env.update(
            s3.env(),
            BENCH=str(bench.folder),
            FER_TRAIN_SLOTS="2",
            MLFLOW_TRACKING_URI="http://127.0.0.1:9",  # these stages log nothing
        )
        bench.change("flows/runs.py", "SILENT_AFTER_S = 100.0", "SILENT_AFTER_S = 45.0")
        bench.change("flows/process.py", "BACKOFF_S = 10.0", "BACKOFF_S = 2.0")
        commit(bench)
        clones = [folder / name for name in ("one", "two")]
        for clone in clones:
            bench.workspace.check("git", "clone", "--quiet", str(bench.folder), str(clone))
        with bench.here():
            deploy_stage(POOL)
        machines = Machines(bench, s3, clones, [])
        for clone in clones:
            machines.start(clone)
        yield machines
        for worker in machines.workers:
            end_tree(worker.pid)
            worker.wait()
        for clone in clones:
            kill_where("FER_CLONE", str(clone))


@pytest.fixture(autouse=True)
def _fresh(machines: Machines) -> None:
    machines.bench.plan()
    machines.bench.forget()


def commit(bench: FlowBench) -> None:
    """Make the bench a git repository with a remote in a bucket."""
    (bench.folder / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n"
        "    url = s3://dvc/store\n"
    )
    (bench.folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n/site\n")
    (bench.folder / ".gitignore").write_text(
        "/out\n/plan.json\n*.jsonl\n/began-*\n/tried-*\n__pycache__\n"
    )
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "-m", "Start")):
        bench.workspace.check("git", *command)


def test_trainings_run_side_by_side_and_wait_for_a_remote_that_is_away(machines: Machines) -> None:
    bench = machines.bench
    bench.plan(train_a={"together": 2, "seconds": 2}, train_b={"together": 2, "seconds": 2})
    process = bench.start(*WITH_WORKERS, "--force")
    bench.wait_until_begun("train@a", "train@b")

    machines.s3.kill()
    away = "waiting to try again: the outs of train@"
    wait_until(lambda: away in machines.log(), "a worker finds the remote away")
    machines.s3.start()

    output = output_of(process)
    assert process.returncode == 0, output
    assert last_line(output) == "4 stages ran, 0 were up to date."
    notes = bench.notes()
    ran_in = {notes[f"train@{name}", "end"]["FER_CLONE"] for name in "ab"}
    assert ran_in == {str(clone) for clone in machines.clones}
    assert notes["calibrate", "end"]["FER_CLONE"] is None
    assert (bench.folder / "notes.jsonl").read_text().count('"train@a", "what": "begin"') == 1
    assert (bench.folder / "out" / "train@a").read_text() == "train@a"
    assert "up to date" in bench.workspace.check("dvc", "status")


def test_what_a_worker_has_done_is_never_done_again(machines: Machines) -> None:
    bench = machines.bench
    assert machines.run().is_completed()
    bench.forget()
    (bench.folder / "dvc.lock").unlink()
    for lost in ("out", ".dvc/cache"):
        shutil.rmtree(bench.folder / lost)

    state = machines.run()

    assert state.is_completed(), state.message
    assert {stage for stage, _ in bench.notes()} == {"prepare", "calibrate"}
    assert (bench.folder / "out" / "train@b").read_text() == "train@b"


def test_a_failed_stage_says_why_here_and_the_other_ends(machines: Machines) -> None:
    machines.bench.plan(train_a={"fails": "the loss is not finite"})

    state = machines.run(force=True)

    assert state.is_failed()
    assert "train@a failed: the loss is not finite" in str(state.message)
    assert ("train@b", "end") in machines.bench.notes()


def test_what_workers_could_not_see_is_refused_before_anything_runs(machines: Machines) -> None:
    bench = machines.bench
    step = bench.folder / "step.py"
    code = step.read_text()
    step.write_text(f"{code}# another\n")
    try:
        state = machines.run(force=True)
    finally:
        step.write_text(code)
    assert "not committed: step.py" in str(state.message)

    state = machines.run(force=True, pool="nobody")
    assert "python -m flows deploy --stage-pool nobody" in str(state.message)
    assert not bench.notes()


def test_a_cancelled_run_leaves_nothing_on_its_workers(machines: Machines) -> None:
    bench = machines.bench
    bench.plan(train_a={"seconds": FOREVER_S}, train_b={"seconds": FOREVER_S})
    process = bench.start(*WITH_WORKERS, "--force")
    bench.wait_until_begun("train@a", "train@b")

    bench.server.cancel(bench.server.flow_runs(name=_run_name(bench))[0]["id"])

    output = output_of(process)
    assert last_line(output) == "error: The run was cancelled."
    assert_none_left(str(machines.clones[0].parent / "one" / ".dvc"))
    assert_none_left(str(machines.clones[0].parent / "two" / ".dvc"))
    assert _states(machines, "stage")[:2] == ["Cancelled", "Cancelled"]


def test_workers_end_the_stages_of_a_flow_that_was_killed(machines: Machines) -> None:
    bench = machines.bench
    bench.plan(train_a={"seconds": FOREVER_S}, train_b={"seconds": FOREVER_S})
    process = bench.start(*WITH_WORKERS, "--force")
    bench.wait_until_begun("train@a", "train@b")

    process.kill()
    output_of(process)

    for clone in machines.clones:
        assert_none_left(str(clone / ".dvc"))


def test_another_worker_takes_what_a_lost_machine_had(machines: Machines) -> None:
    """Nothing on that machine can tell: neither the worker, nor the run, nor its crash reporter."""
    bench = machines.bench
    bench.plan(train_a={"seconds": FOREVER_S})
    process = bench.start(*WITH_WORKERS, "--force", "--target", "train@a")
    bench.wait_until_begun("train@a")
    clone = Path(bench.notes()["train@a", "begin"]["FER_CLONE"])
    bench.plan()

    kill_where("FER_CLONE", str(clone))

    output = output_of(process)
    machines.start(clone)
    assert process.returncode == 0, output
    assert bench.notes()["train@a", "end"]["FER_CLONE"] != str(clone)
    assert _states(machines, "stage")[:2] == ["Completed", "Crashed"]


@pytest.mark.parametrize("told", [{}, {RESULT_LABEL: '{"outs": []}'}])
def test_a_worker_of_other_code_is_named(told: dict[str, Any]) -> None:
    run = FlowRun(flow_id=uuid4(), name="train@a", labels=told)
    with pytest.raises(FlowError, match=r"^'train@a' was run by other code than this flow's"):
        _result(run)


def _run_name(bench: FlowBench) -> str:
    commit = bench.workspace.check("git", "rev-parse", "--short", "HEAD").strip()
    return f"custom at {commit}"


def _states(machines: Machines, flow: str) -> list[str]:
    """Of the runs of a flow, the newest first."""
    server = machines.bench.server
    (found,) = [one for one in server.ask("/flows/filter") if one["name"] == flow]
    return [run["state"]["name"] for run in server.flow_runs(flow_id=found["id"])]

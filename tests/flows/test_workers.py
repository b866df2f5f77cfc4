"""Stages on workers in clones of their own: what they bring back, and how runs and workers end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from flow_bench import FlowBench, make_bench
from prefect_server import PrefectServer
from processes import end_tree, kill_all
from s3_server import S3Server

pytestmark = pytest.mark.slow

LOST_WITHIN_S = 240.0
"""Two minutes without a heartbeat, and the time to begin again on another worker."""


@dataclass
class Machines:
    """A project with a remote, and a worker in each of two clones of it."""

    bench: FlowBench
    clones: list[Path]
    workers: list[subprocess.Popen[bytes]]

    def start(self, clone: Path) -> None:
        env = self.bench.workspace.env | self.bench.server.env() | {"PYTHONUNBUFFERED": "1"}
        with (clone.parent / f"{clone.name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "flows", "worker", "--limit", "1", "--folder", str(clone)],
                cwd=clone,
                env=env,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)

    def run(self, *arguments: str) -> tuple[int, str]:
        return self.bench.run("pipeline", "--workers", *arguments)


@pytest.fixture(scope="module")
def machines(
    root: Path, tmp_path_factory: pytest.TempPathFactory, server: PrefectServer
) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    with S3Server(folder / "s3", ["dvc"]) as s3:
        bench = make_bench(root, folder / "bench", server)
        bench.workspace.env.update(
            {key: value for key, value in s3.env().items() if value != os.devnull},  # for DVC
            BENCH=str(bench.folder),
            FER_TRAIN_SLOTS="2",
            MLFLOW_TRACKING_URI="http://127.0.0.1:9",  # these stages log nothing
        )
        commit(bench)
        clones = [folder / name for name in ("one", "two")]
        for clone in clones:
            bench.workspace.check("git", "clone", "--quiet", str(bench.folder), str(clone))
        status, output = bench.run("deploy")
        assert status == 0, output
        machines = Machines(bench, clones, [])
        for clone in clones:
            machines.start(clone)
        yield machines
        for worker in machines.workers:
            end_tree(worker.pid)
            worker.wait()
        kill_all(str(folder))


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
    (bench.folder / ".gitignore").write_text("/out\n/plan.json\n*.jsonl\n/began-*\n/tried-*\n")
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "-m", "Start")):
        bench.workspace.check("git", *command)


def test_trainings_run_side_by_side_on_two_workers(machines: Machines) -> None:
    bench = machines.bench
    bench.plan(train_a={"together": 2}, train_b={"together": 2})

    status, output = machines.run()

    assert status == 0, output
    assert output.splitlines()[-1] == "4 stages ran, 0 were up to date."
    notes = bench.notes()
    ran_in = {notes[f"train@{name}", "end"]["FER_CLONE"] for name in "ab"}
    assert ran_in == {str(clone) for clone in machines.clones}
    assert notes["calibrate", "end"]["FER_CLONE"] is None
    assert (bench.folder / "out" / "train@a").read_text() == "train@a"
    assert "up to date" in bench.workspace.check("dvc", "status")

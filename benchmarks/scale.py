"""What workers save over one, and what a stage costs that runs on a worker.

Makes a DVC project of three stages that sleep, a folder as DVC's remote, and two clones, each with
a worker that takes one stage at a time, in a temporary folder with a Prefect server. Both workers
run on this machine: what is measured is the way there and back, not the work. It times whole
processes, in turns, each with another value in params.yaml, after a run that has made the clones'
trees:

    one        `python -m flows pipeline --workers`, with one worker
    two        the same with two
    single     the same for a single stage, with one worker: what it reads is there

Run it with `python benchmarks/scale.py [--seconds S] [--repeats N]`. It prints a table and, as its
last line, one JSON object: `two_workers_speedup` (one / two), `overhead_s_per_stage` (single,
without the sleep), and the medians behind them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from commands import failure, measure_and_print, medians_of, timed
from orchestration import FLOW, ROOT, server

GRAPH = """
stages:
  prepare:
    cmd: echo ready > prepared
    outs: [prepared]
  train:
    foreach: [a, b, c]
    do:
      cmd: sleep SECONDS && echo ${item} ${round} > trained_${item}
      deps: [prepared]
      outs: ["trained_${item}"]
      meta: {slot: true}
"""
DEPLOY = (sys.executable, "-c", "from flows.deploy import deploy_stage as do; do('fer-stages')")
WORKER = (sys.executable, "-m", "flows", "worker", "--limit", "1")


def measure(folder: Path, seconds: int, repeats: int) -> dict[str, float]:
    """Medians in seconds, and what follows from them."""
    project = folder / "project"
    make_project(project, folder / "store", seconds)
    home = {"PREFECT_HOME": str(folder / "prefect"), "TMPDIR": str(folder), "FER_TRAIN_SLOTS": "1"}
    # Nobody listens there: these stages log to no MLflow.
    home |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "CUDA_VISIBLE_DEVICES": ""}
    rounds: dict[str, list[float]] = {"one": [], "two": [], "single": []}
    with server(folder, home) as address, ExitStack() as workers:
        env = home | address | {"PYTHONPATH": str(ROOT)}
        timed(DEPLOY, project, env)
        workers.enter_context(worker(project, folder / "first", env))

        def duration(*targets: str) -> float:
            params = project / "params.yaml"
            params.write_text(f"round: {int(params.read_text().split()[1]) + 1}\n")
            return timed((*FLOW, "--workers", *targets), project, env)[0]

        with worker(project, folder / "second", env):
            duration()  # it makes the trees
        for _ in range(repeats):
            rounds["one"].append(duration())
            with worker(project, folder / "second", env):
                rounds["two"].append(duration())
            rounds["single"].append(duration("--target", "train@a"))
    medians = medians_of(rounds)
    return {
        "two_workers_speedup": round(medians["one_s"] / medians["two_s"], 2),
        "overhead_s_per_stage": round(medians["single_s"] - seconds, 2),
        **medians,
    }


def make_project(project: Path, store: Path, seconds: int) -> None:
    project.mkdir()
    (project / "dvc.yaml").write_text(GRAPH.replace("SECONDS", str(seconds)))
    (project / "params.yaml").write_text("round: 0\n")
    commands = (
        "git init --quiet",
        "dvc init --quiet",
        f"dvc remote add --quiet --default store {store}",
        "git add --all",
        "git -c user.name=bench -c user.email=bench@example.org commit --quiet --message Start",
    )
    for command in commands:
        timed(command.split(), project)


@contextmanager
def worker(project: Path, clone: Path, env: dict[str, str]) -> Iterator[None]:
    """A worker in a clone of the project, with a slot of its own, as on a machine of its own."""
    if not clone.exists():
        timed(("git", "clone", "--quiet", str(project), str(clone)))
    (clone / ".dvc" / "tmp").mkdir(exist_ok=True)
    own = env | {"TMPDIR": str(clone / ".dvc" / "tmp")}
    log = clone.parent / f"{clone.name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            WORKER, cwd=clone, env=os.environ | own, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        while "started!" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(failure(WORKER, process.returncode, log.read_text()))
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    measure_and_print(__doc__, measure, seconds=30)

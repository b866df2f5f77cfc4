"""What the flow saves over `dvc repro`, and what it costs when there is nothing to do.

Makes a DVC project of three stages that sleep side by side, between two that do nothing, in a
temporary folder, and times whole processes, in turns:

    repro      `dvc repro`: one stage after the other
    flow       `python -m flows pipeline`, with a Prefect server that is up, as for deployments
    alone      the same without a server: it starts one for the time of the run
    noop       all three again, with nothing to do

Run it with `python benchmarks/orchestration.py [--seconds S] [--repeats N]`. It prints a table and,
as its last line, one JSON object: `parallel_speedup` (repro / flow), `parallel_speedup_alone`
(repro / alone), `noop_s` (alone), `noop_flow_s`, `noop_repro_s`, and the medians behind them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import failure, measure_and_print, medians_of, timed

ROOT = Path(__file__).resolve().parents[1]
FLOW = (sys.executable, "-m", "flows", "pipeline")
REPRO = ("dvc", "repro")
READY_WITHIN_S = 120.0

GRAPH = """
stages:
  prepare:
    cmd: echo ready > prepared
    outs: [prepared]
  train:
    foreach: [a, b, c]
    do:
      cmd: sleep SECONDS && echo ${item} > trained_${item}
      deps: [prepared]
      outs: ["trained_${item}"]
      meta: {slot: true}
  calibrate:
    cmd: cat trained_a trained_b trained_c > fused
    deps: [trained_a, trained_b, trained_c]
    outs: [fused]
"""


def measure(folder: Path, seconds: int, repeats: int) -> dict[str, float]:
    """Medians in seconds, and their ratios."""
    project = folder / "project"
    make_project(project, seconds)
    # Slots are files in the machine's temporary folder: these are not shared with other runs.
    home = {"PREFECT_HOME": str(folder / "prefect"), "TMPDIR": str(folder)}

    def alone() -> float:
        return duration(project, FLOW, home | {"PREFECT_API_URL": ""})

    alone()  # the first start of a server migrates its database
    names = ("repro", "flow", "alone", "noop", "noop_flow", "noop_repro")
    rounds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        rounds["repro"].append(fresh(project, lambda: duration(project, REPRO, home)))
        rounds["noop_repro"].append(duration(project, REPRO, home))
        with server(folder, home) as address:
            rounds["flow"].append(fresh(project, lambda: duration(project, FLOW, home | address)))
            rounds["noop_flow"].append(duration(project, FLOW, home | address))
        rounds["alone"].append(fresh(project, alone))
        rounds["noop"].append(alone())
    medians = medians_of(rounds)
    return {
        "parallel_speedup": round(medians["repro_s"] / medians["flow_s"], 2),
        "parallel_speedup_alone": round(medians["repro_s"] / medians["alone_s"], 2),
        **medians,
    }


def make_project(project: Path, seconds: int) -> None:
    project.mkdir()
    (project / "dvc.yaml").write_text(GRAPH.replace("SECONDS", str(seconds)))
    for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet")):
        timed(command, project)


def fresh(project: Path, run: Callable[[], float]) -> float:
    """Time a run that has everything before it: neither outs, nor lock, nor DVC's run-cache."""
    for name in ("prepared", "trained_a", "trained_b", "trained_c", "fused", "dvc.lock"):
        (project / name).unlink(missing_ok=True)
    shutil.rmtree(project / ".dvc" / "cache", ignore_errors=True)
    return run()


def duration(project: Path, command: tuple[str, ...], env: dict[str, str]) -> float:
    """Seconds that a command takes, without GPUs: their number would be that of the slots."""
    return timed(command, project, {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | env)[0]


@contextmanager
def server(folder: Path, home: dict[str, str]) -> Iterator[dict[str, str]]:
    """A Prefect server that is up; gives the variables that name it to a process."""
    port = free_port()
    address = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = (sys.executable, "-m", "prefect", "server", "start", "--port", str(port))
    log = folder / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env=os.environ | home | address, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        if not is_up(process, f"{address['PREFECT_API_URL']}/health"):
            raise SystemExit(failure(command, process.poll(), log.read_text()))
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        return int(closed_soon.getsockname()[1])


def is_up(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers, ends, or has had its time."""
    deadline = time.monotonic() + READY_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return True
        except OSError:
            time.sleep(0.2)
    return False


if __name__ == "__main__":
    measure_and_print(__doc__, measure, seconds=10)

"""A `dvc repro` that is killed, repaired and run again ends as an undisturbed one does.

The repair finds something to do only if the kill fell where DVC rewrites a file of its own.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from processes import wait_until
from ruamel.yaml import YAML
from workspace import Workspace

from fer_pipeline.repair import is_whole_dvc_lock, repair

pytestmark = pytest.mark.slow

STAGES = (
    "ingest",
    "prepare",
    "describe",
    "train@resnet50",
    "predict@resnet50",
    "calibrate",
    "evaluate",
    "report",
    "register",
)


KILLED = ("ingest", "train@resnet50", "evaluate", "register")
"""One that fetches, one with checkpoints and a run in MLflow, one that writes files, one that moves
aliases; the others are like the third."""


@pytest.fixture
def begun(copied: Workspace, empty_database: Path) -> Workspace:
    """A workspace before its first run, but for one of two backbones, which DVC has stored."""
    for out in (*copied.outs(), "dvc.lock"):
        path = copied.folder / out
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for entry in (copied.folder / ".dvc/cache/runs").glob("*/*/*"):
        outs = YAML(typ="safe").load(entry)["outs"]
        if not any("inception_v3" in out["path"] for out in outs[:1]):
            shutil.rmtree(entry.parent)
    shutil.copy(empty_database, copied.folder)
    return copied


def start_until(workspace: Workspace, stage: str) -> subprocess.Popen[str]:
    """Start `dvc repro` in a process group of its own, and return when it runs the stage.

    On a fast machine the stage may have been done before the last kill: then the first stage
    after it serves as well.
    """
    wanted = STAGES[STAGES.index(stage) :]
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=workspace.folder,
        env=workspace.env | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Running stage") and line.split("'")[1] in wanted:
            return process
    raise AssertionError(f"dvc repro ended without running {stage}:\n{''.join(said)}")


def stage_processes(workspace: Workspace) -> list[int]:
    """Processes that run a stage in this workspace."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            inside = (entry / "cwd").resolve() == workspace.folder.resolve()
        except OSError:
            continue
        if inside and b"fer_pipeline.stages" in command:
            found.append(int(entry.name))
    return found


def computed(workspace: Workspace) -> dict[str, str]:
    """The hashes of all outs but of those that say how long the work took."""
    told = ("provenance/", "reports/report.html", "reports/model_card.md")
    outs = workspace.outs()
    kept = {path: outs[path] for path in outs if not path.startswith(told)}
    assert len(kept) == len(outs) - len(told) - 1  # two backbones
    return kept


def test_killed_in_stages_of_each_kind_and_run_again_ends_as_undisturbed(
    finished: Workspace, begun: Workspace
) -> None:
    workspace = begun
    seed = int(os.environ.get("KILL_SEED", "0"))
    print(f"to repeat these kills: KILL_SEED={seed}")
    moment = random.Random(seed)
    for stage in KILLED:
        process = start_until(workspace, stage)
        time.sleep(moment.uniform(0.0, 2.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        print(f"killed in or after {stage}: {repair(workspace.folder) or 'nothing to repair'}")
    workspace.check("dvc", "repro")

    assert computed(workspace) == computed(finished)
    assert not list(workspace.folder.glob("*/**/.partial-*"))
    store = MlflowClient(f"sqlite:///{workspace.folder / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("fer2013")
    runs = store.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name.partition(" ")[0] for run in runs) == ["fusion", "resnet50"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(store.search_model_versions("name = 'fer-fusion'")) == 1


@pytest.mark.parametrize("torn_at", [0.0, 0.6])
def test_a_torn_dvc_lock_costs_no_stage(copied: Workspace, torn_at: float) -> None:
    lock = copied.folder / "dvc.lock"
    before = lock.read_bytes()
    end = int(len(before) * torn_at)
    while is_whole_dvc_lock(before[:end].decode()):
        end += 1
    lock.write_bytes(before[:end])
    rwlock = copied.folder / ".dvc" / "tmp" / "rwlock"
    rwlock.write_bytes(b"")

    assert copied.run("dvc", "repro").returncode != 0
    assert len(repair(copied.folder)) == 2
    said = copied.check("dvc", "repro")

    assert "Running stage" not in said
    assert lock.read_bytes() == before


def test_a_stage_does_not_outlive_a_killed_dvc(copied: Workspace) -> None:
    copied.edit_params(seed=5)
    process = start_until(copied, "train@resnet50")
    wait_until(lambda: any(map(imports_torch, stage_processes(copied))), 120, "the stage runs")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        wait_until(lambda: not stage_processes(copied), 60, "no stage is left")
    finally:
        for pid in stage_processes(copied):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def imports_torch(pid: int) -> bool:
    """Whether a process has come so far that it imports torch."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False

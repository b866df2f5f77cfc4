"""A `dvc repro` that is killed, repaired and run again ends as an undisturbed one does.

The repair finds something to do only if the kill fell where DVC rewrites a file of its own.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from mlflow.entities import Run
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
        # Debian's sh stays as the parent of its command; bash lets it take its place.
        env=workspace.env | {"PYTHONUNBUFFERED": "1", "SHELL": "/bin/sh"},
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
        if stage == "train@resnet50":
            killed_at = kill_dvc_alone(process, workspace)
        else:
            time.sleep(moment.uniform(0.0, 2.5))
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        print(f"killed in or after {stage}: {repair(workspace.folder) or 'nothing to repair'}")
        if stage == "train@resnet50":
            in_vain = sum(run.info.end_time < killed_at for run in finished_runs(workspace))
    with workspace.repo() as repo:
        repo.reproduce()

    assert computed(workspace) == computed(finished)
    assert not list(workspace.folder.glob("*/**/.partial-*"))
    assert {run.info.status for run in runs(workspace)} == {"FINISHED"}
    names = [run.info.run_name.partition(" ")[0] for run in runs(workspace)]
    assert set(names) == {"fusion", "resnet50"}
    assert names.count("fusion") == 1
    # On a busy machine the training may have ended before the kill. If DVC had not recorded it, the
    # next is another one.
    assert names.count("resnet50") <= 1 + in_vain
    store = MlflowClient(f"sqlite:///{workspace.folder / 'mlflow.db'}")
    assert len(store.search_model_versions("name = 'fer-fusion'")) == 1


def test_a_torn_dvc_lock_costs_no_stage(
    copied: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    lock = copied.folder / "dvc.lock"
    before = lock.read_bytes()
    rwlock = copied.folder / ".dvc" / "tmp" / "rwlock"
    for torn_at in (0.0, 0.6):
        end = int(len(before) * torn_at)
        while is_whole_dvc_lock(before[:end].decode()):
            end += 1
        lock.write_bytes(before[:end])
        rwlock.write_bytes(b"")

        with copied.repo() as repo, pytest.raises(DvcException):
            repo.reproduce()
        assert len(repair(copied.folder)) == 2
        caplog.clear()
        with copied.repo() as repo, caplog.at_level(logging.INFO, "dvc"):
            repo.reproduce()

        assert "is cached" in caplog.text
        assert "Running stage" not in caplog.text
        assert lock.read_bytes() == before


def runs(workspace: Workspace) -> list[Run]:
    store = MlflowClient(f"sqlite:///{workspace.folder / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("fer2013")
    return list(store.search_runs([experiment.experiment_id])) if experiment else []


def finished_runs(workspace: Workspace) -> list[Run]:
    return [run for run in runs(workspace) if run.info.status == "FINISHED"]


def kill_dvc_alone(process: subprocess.Popen[str], workspace: Workspace) -> float:
    """Kill `dvc repro` while its stage has a run open: the stage does not outlive it.

    Returns:
        When it was dead, in milliseconds since 1970 as in MLflow.
    """
    wait_until(lambda: runs(workspace), "the stage has a run in MLflow")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed_at = time.time() * 1000
    try:
        wait_until(lambda: not stage_processes(workspace), "no stage is left")
    finally:
        for pid in stage_processes(workspace):
            os.kill(pid, signal.SIGKILL)
    return killed_at

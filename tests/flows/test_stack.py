"""The project over two workers, on the services as processes: what comes of it, and what stays."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from flow_bench import FlowBench
from mlflow.tracking import MlflowClient
from postgres_server import is_installed
from prefect_server import PrefectServer
from processes import assert_none_left, kill_all, kill_where, output_of, wait_until
from workspace import TRAIN, InProcess, Workspace, copy_workspace, stage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="no PostgreSQL: install Debian's 'postgresql'"),
]

OUTS = (
    "models/resnet50/model.safetensors",
    "metrics/train/resnet50.json",
    "plots/curves/resnet50.csv",
    "predictions/resnet50.npz",
)
"""What has the same bytes wherever it is made; provenance says where that was."""

TARGETS = ("predict@resnet50", "train@inception_v3")
CHECKPOINTS = ".dvc/tmp/trees/*/checkpoints/resnet50/*/epoch-*.pt"
STACK = (sys.executable, "-m", "flows", "stack")


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder that the user of PostgreSQL may enter, as pytest's may not."""
    folder = Path(tempfile.mkdtemp(prefix="stack-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    kill_all(str(folder))
    shutil.rmtree(folder)


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    """Both backbones train anew, one long enough to be killed."""
    made = copy_workspace(finished, tmp_path / "project")
    made.edit_params(training__optimizer="sgd", backbones__resnet50__finetune__epochs=8)
    return made


@pytest.fixture
def expected(workspace: Workspace, tmp_path: Path) -> dict[str, str]:
    """The hashes of the outs that one undisturbed process gives."""
    alone = copy_workspace(workspace, tmp_path / "alone")
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{alone.folder / 'mlflow.db'}"}
    here = InProcess(alone.folder, alone.env | store)
    here.check(*TRAIN)
    here.check(*stage("predict", "resnet50"))
    return {path: hashlib.md5((alone.folder / path).read_bytes()).hexdigest() for path in OUTS}


def test_two_workers_give_the_bytes_of_one_folder_though_one_is_killed_and_all_is_kept(
    workspace: Workspace, expected: dict[str, str], state: Path
) -> None:
    command = (*STACK, "--state", str(state))
    with subprocess.Popen(
        command, cwd=workspace.folder, env=workspace.env, stdout=subprocess.PIPE, text=True
    ) as up:
        _wait_until_up(up)
        assert (state / "env").stat().st_mode & 0o077 == 0
        env = _settings(state)
        again = workspace.run(*command)
        assert again.returncode == 1
        assert again.stderr.startswith(f"error: the stack in {state} is up already")
        # With those that are up; it ends as its command does.
        assert workspace.run(*command, "--", "sh", "-c", "exit $FER_WORKERS").returncode == 2

        _train_and_lose_a_worker(Workspace(workspace.folder, workspace.env | env), state)

        outs = workspace.outs()
        assert {path: outs[path] for path in expected} == expected
        up.kill()
    for mark in (str(workspace.folder), str(state)):  # supervisord, and what it ran
        assert_none_left(mark)

    clone = state / "clone"
    take = "git clone -q . $0 && cp dvc.lock $0 && cd $0 && dvc pull -q train@resnet50"
    workspace.check(*command, "--workers", "0", "--", "sh", "-c", take, str(clone))
    assert (clone / "models" / "resnet50" / "model.safetensors").exists()
    assert _settings(state) == env | {"FER_WORKERS": "0", "FER_TRAIN_SLOTS": "1"}
    assert_none_left(str(state))


def _train_and_lose_a_worker(here: Workspace, state: Path) -> None:
    bench = FlowBench(here, PrefectServer(state / "prefect", int(here.env["PREFECT_PORT"])))
    targets = [word for name in TARGETS for word in ("--target", name)]
    process = bench.start("pipeline", "--workers", *targets)
    wait_until(lambda: _copies(here.env), "a checkpoint in the bucket")
    clones = [state / "worker-1", state / "worker-2"]
    clone = next(clone for clone in clones if any(clone.glob(CHECKPOINTS)))
    # The worker and the run: the training ends with the run, and Prefect is told of its death.
    kill_where("FER_CLONE", str(clone), "prefect")

    output = output_of(process)

    assert process.returncode == 0, output
    assert "up to date" in here.check("dvc", "status", *TARGETS)
    run = next(run for run in bench.server.flow_runs() if run["name"].startswith("custom"))
    machines = json.loads(bench.server.artifacts(run["id"])["fer-machines"]["data"])
    assert [row["backbone"] for row in machines] == ["inception_v3", "resnet50"]
    logs = [(state / "logs" / f"{clone.name}.log").read_text() for clone in clones]
    assert all("Running stage 'train@" in log for log in logs)
    assert "resnet50: going on after epoch" in "".join(logs)
    assert not _copies(here.env)  # it is done
    # One run in MLflow, with each epoch once, though two workers logged to it.
    client = MlflowClient(here.env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("fer2013")
    runs = client.search_runs([experiment.experiment_id], "tags.fer.backbone = 'resnet50'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    history = client.get_metric_history(runs[0].info.run_id, "val_accuracy")
    assert [metric.step for metric in history] == list(range(1, 10))


def _wait_until_up(up: subprocess.Popen[str]) -> None:
    assert up.stdout is not None
    while not (line := up.stdout.readline()).startswith("to use it in a shell:"):
        assert line


def _settings(state: Path) -> dict[str, str]:
    words = shlex.split((state / "env").read_text())
    return dict(word.split("=", 1) for word in words)


def _copies(env: dict[str, str]) -> list[str]:
    """The copies of the long training's checkpoints in the bucket."""
    client: Any = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )
    try:
        found = client.list_objects_v2(Bucket="dvc", Prefix="checkpoints/resnet50/")
    finally:
        client.close()
    return [one["Key"] for one in found.get("Contents", [])]


def test_without_a_commit_there_is_nothing_for_workers_to_clone(
    tmp_path: Path, state: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    done = subprocess.run(
        (*STACK, "--state", str(state), "--folder", str(tmp_path)),
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} has no commit of the project")

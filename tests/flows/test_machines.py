"""The project itself over two machines: their clones, a bucket, an MLflow and a Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_bench import BEGUN_WITHIN_S, RUN_WITHIN_S, FlowBench
from mlflow.tracking import MlflowClient
from mlflow_server import mlflow_server
from prefect_server import PrefectServer
from processes import end_tree, kill_where, wait_until
from s3_server import S3Server
from workspace import Workspace, copy_workspace, environment

pytestmark = pytest.mark.slow

OUTS = ("metrics/", "models/", "plots/", "predictions/")
"""What has the same bytes wherever it is made; provenance says where that was."""

POOL = "machines"
CHECKPOINTS = ".dvc/tmp/trees/*/checkpoints/resnet50/*/epoch-*.pt"
NEW_PARAMS = {"training__label_smoothing": 0.1, "training__checkpoint_every_s": 0.0}


def change_params(workspace: Workspace) -> Workspace:
    """Both backbones train anew, one long enough to be killed."""
    workspace.edit_params(backbones__resnet50__finetune__epochs=8, **NEW_PARAMS)
    return workspace


@pytest.fixture(scope="module")
def expected(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of the outs that `dvc repro` gives in one folder."""
    workspace = change_params(copy_workspace(finished, tmp_path_factory.mktemp("alone")))
    workspace.check("dvc", "repro", "evaluate")
    return {path: md5 for path, md5 in workspace.outs().items() if path.startswith(OUTS)}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), ["dvc"]) as s3:
        yield s3


@pytest.fixture(scope="module")
def project(
    finished: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
    server: PrefectServer,
    bucket: S3Server,
) -> Iterator[FlowBench]:
    """The finished project with a remote and with new params, and what its workers need."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mlflow").mkdir()
    with mlflow_server(folder / "mlflow") as mlflow:
        workspace = change_params(copy_workspace(finished, folder / "project"))
        workspace.env.update(
            bucket.env(),
            FER_CHECKPOINTS="s3://dvc/checkpoints",
            FER_TRAIN_SLOTS="2",
            MLFLOW_TRACKING_URI=mlflow.uri,
        )
        workspace.check("dvc", "remote", "add", "--default", "store", "s3://dvc/store")
        workspace.check("git", "commit", "--quiet", "--all", "--message", "Add a remote")
        yield FlowBench(workspace, server)


def start_worker(project: FlowBench, clone: Path) -> subprocess.Popen[bytes]:
    project.workspace.check("git", "clone", "--quiet", str(project.folder), str(clone))
    code = environment(clone)["PYTHONPATH"]
    with clone.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", "worker", "--limit", "1", "--pool", POOL],
            cwd=clone,
            env=project.workspace.env | project.server.env() | {"PYTHONPATH": code},
            stdout=log,
            stderr=log,
        )


def test_two_machines_give_the_bytes_of_one_though_a_worker_is_killed(
    project: FlowBench, bucket: S3Server, expected: dict[str, str], tmp_path: Path
) -> None:
    status, output = project.run("deploy", "--suffix", POOL, "--stage-pool", POOL)
    assert status == 0, output
    clones = [tmp_path / name for name in ("one", "two")]
    workers = [start_worker(project, clone) for clone in clones]
    try:
        process = project.start("pipeline", "--workers", "--pool", POOL, "--target", "evaluate")
        wait_until(lambda: _long_training(bucket), BEGUN_WITHIN_S, "a checkpoint in the bucket")
        clone = next(clone for clone in clones if any(clone.glob(CHECKPOINTS)))
        # The worker and the run: the training ends with the run, and Prefect is told of its death.
        kill_where("FER_CLONE", str(clone), "prefect")

        output, _ = process.communicate(timeout=RUN_WITHIN_S)
    finally:
        for worker in workers:
            end_tree(worker.pid)
            worker.wait()

    assert process.returncode == 0, output
    outs = project.workspace.outs()
    assert {path: outs[path] for path in expected} == expected
    assert "up to date" in project.workspace.check("dvc", "status", "evaluate")
    machines = json.loads(project.server.artifacts(_newest(project))["fer-machines"]["data"])
    assert [row["backbone"] for row in machines] == ["inception_v3", "resnet50"]
    logs = [clone.with_suffix(".log").read_text() for clone in clones]
    assert all("Running stage 'train@" in log for log in logs)
    assert "resnet50: going on after epoch" in "".join(logs)
    assert not _long_training(bucket)  # it is done
    # One run in MLflow, with each epoch once, though two machines logged to it.
    client = MlflowClient(project.workspace.env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("fer2013")
    runs = client.search_runs([experiment.experiment_id], "tags.fer.backbone = 'resnet50'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    history = client.get_metric_history(runs[0].info.run_id, "val_accuracy")
    assert [metric.step for metric in history] == list(range(1, 10))


def _newest(project: FlowBench) -> str:
    """The run of the pipeline, without those of its stages."""
    runs = project.server.flow_runs()
    return next(str(run["id"]) for run in runs if run["name"].startswith("custom"))


def _long_training(bucket: S3Server) -> list[str]:
    """The copies of the checkpoints that it has in the bucket."""
    client = bucket.client()
    try:
        found = client.list_objects_v2(Bucket="dvc", Prefix="checkpoints/resnet50/")
    finally:
        client.close()
    return [one["Key"] for one in found.get("Contents", [])]

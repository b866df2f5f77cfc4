"""Deploys what `prefect.yaml` lists to work in a folder, and the flow `stage` to work anywhere."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker
from ruamel.yaml import YAML

from fer_pipeline.errors import FlowError
from flows.server import HEARTBEAT, require_server_for_all
from flows.slots import machine_slots
from flows.stage import CLONE_VARIABLE

_FILE = "prefect.yaml"
_QUEUE = "folder"


def deploy(folder: Path, pool: str, suffix: str, *, take_over: bool) -> None:
    """Deploy, and make the work pool and its queue for one run at a time where there are none.

    Args:
        folder: of prefect.yaml, in which the flows shall work.
        pool: the work pool.
        suffix: of the deployments' names.
        take_over: replace deployments that work in another folder.

    Raises:
        FlowError: there is no prefect.yaml, a deployment would be taken over, or Prefect refuses.
    """
    folder = folder.resolve()
    if not (folder / _FILE).exists():
        raise FlowError(f"{folder} has no {_FILE}: give the project's folder")
    with get_client(sync_client=True) as client:
        if not take_over:
            _require_own(client, folder, suffix)
        _require_pool(client, pool)
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_queue(_QUEUE, concurrency_limit=1, work_pool_name=pool)
    names = {"FER_POOL": pool, "FER_SUFFIX": suffix, "FER_FOLDER": str(folder)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    env = {**os.environ, **names}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlowError(f"'prefect deploy' failed: {done.stdout} {done.stderr}".strip())


def deploy_stage(pool: str) -> None:
    """Deploy the flow `stage` to a work pool, of whatever type; one of processes is made.

    It names a module, not a folder: workers run the code of their own clones.
    """
    from flows.stage import stage

    with get_client(sync_client=True) as client:
        _require_pool(client, pool)
    deployment = stage.to_deployment(
        name=pool,
        description="A stage that a run of the flow pipeline has sent to this work pool.",
        tags=["fer"],
        work_pool_name=pool,
        # By itself Prefect starts a process that looks for the flow, and then the run's: a second.
        job_variables={"env": HEARTBEAT, "command": "python -m prefect.engine"},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)  # a coroutine only where there is a loop
    deployment.apply()


def start_worker(folder: Path, pool: str, limit: int | None) -> None:
    """Become a worker that takes stages, as many at once as it may.

    Raises:
        FlowError: `FER_TRAIN_SLOTS` is no number of slots, there is no DVC project, or no server.
    """
    require_server_for_all()
    if not (folder / ".dvc").is_dir():
        raise FlowError(f"{folder.resolve()} is no DVC project: give the folder of a clone")
    at_once = limit or len(machine_slots(1))
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    os.environ[CLONE_VARIABLE] = str(folder.resolve())
    python = Path(sys.executable)  # runs are started as 'python'
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # by which Prefect ends; scripts' '&' ignores it
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
    os.execv(sys.executable, [*command, "--pool", pool, "--limit", str(at_once)])


def _require_pool(client: SyncPrefectClient, pool: str) -> None:
    with contextlib.suppress(ObjectAlreadyExists):
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=pool, type="process", base_job_template=template)
        )


def _require_own(client: SyncPrefectClient, folder: Path, suffix: str) -> None:
    for listed in YAML(typ="safe").load(folder / _FILE)["deployments"]:
        flow = listed["entrypoint"].rpartition(":")[2]
        name = f"{flow}/{listed['name'].partition('{{')[0]}{suffix}"
        with contextlib.suppress(ObjectNotFound):
            other = _folder_of(client.read_deployment_by_name(name))
            if other != str(folder):
                raise FlowError(
                    f"the deployment {name} works in {other}: give these another name (--suffix), "
                    f"or replace it (--take-over)"
                )


def _folder_of(deployment: DeploymentResponse) -> str:
    steps = [inputs for step in deployment.pull_steps or [] for inputs in step.values()]
    return next((str(one["directory"]) for one in steps if "directory" in one), "an unknown folder")

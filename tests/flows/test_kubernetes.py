"""Stages as Kubernetes jobs: what Prefect makes of the template of docs/scale.md."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.base import BaseJobConfiguration
from prefect_server import PrefectServer

from flows.deploy import deploy_stage
from flows.server import HEARTBEAT

pytestmark = pytest.mark.slow

_POOL = "fer-kubernetes"


class Job(BaseJobConfiguration):
    """The fields of Prefect's Kubernetes worker that the template fills."""

    namespace: str
    job_manifest: dict[str, Any]
    pod_watch_timeout_seconds: int


def test_a_stage_is_a_job_with_a_gpu_and_the_secrets(root: Path, server: PrefectServer) -> None:
    template = json.loads((root / "docker" / "kubernetes.json").read_text())

    with temporary_settings({PREFECT_API_URL: server.api}):
        with get_client(sync_client=True) as client:
            pool = WorkPoolCreate(name=_POOL, type="kubernetes", base_job_template=template)
            client.create_work_pool(pool)  # the server checks it
            deploy_stage(_POOL)
            deployed = client.read_deployment_by_name(f"stage/{_POOL}")
            kept = client.read_work_pool(_POOL).base_job_template
        values = {"secret": "other", **deployed.job_variables}
        job = asyncio.run(Job.from_template_and_values(kept, values))

    assert job.env == HEARTBEAT
    pod = job.job_manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "fer-fusion:cuda"
    assert container["args"] == job.command == "python -m prefect.engine"
    assert container["envFrom"] == [{"secretRef": {"name": "other"}}]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "16Gi"}
    assert pod["securityContext"]["runAsNonRoot"]
    assert "{{" not in json.dumps(job.job_manifest)


def test_the_template_fills_what_prefects_own_fills(root: Path) -> None:
    import prefect

    bundled = Path(prefect.__file__).parent / "server/api/collections_data/views"
    workers = json.loads((bundled / "aggregate-worker-metadata.json").read_text())
    own = workers["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    ours = json.loads((root / "docker" / "kubernetes.json").read_text())

    def manifest(template: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = template["job_configuration"]["job_manifest"]
        return found

    assert ours["job_configuration"].keys() == own["job_configuration"].keys() - {"cluster_config"}
    (container,) = manifest(ours)["spec"]["template"]["spec"]["containers"]
    (theirs,) = manifest(own)["spec"]["template"]["spec"]["containers"]
    assert container.keys() > theirs.keys()
    for key in ("name", "args", "env"):
        assert container[key] == theirs[key]

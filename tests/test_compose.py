"""`docker/compose.yaml` brought up for real: a run through all of it, and what outlives it.

Skipped where there is no container engine, or no base images for it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import WITHIN_S, wait_until
from workspace import make_workspace

from fer_pipeline.emotions import EMOTIONS
from flows.stack import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(2400)]

_BASE = "python:3.11-slim-bookworm"
_DEBIAN = "debian:bookworm-slim"
_POSTGRES = "postgres:17.6-bookworm"
_SERVERS = ("S3", "MLFLOW", "PREFECT", "SERVE")
_VERSION = (
    "import mlflow; c = mlflow.MlflowClient(); print(c.get_model_version('fer-fusion', 1).status)"
)


@dataclass(frozen=True)
class Stack:
    """A project's services: `docker compose` in its folder, under a name of its own."""

    folder: Path
    command: tuple[str, ...]
    env: dict[str, str]
    serve_port: int

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            (*self.command, *arguments),
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def flows(self, *command: str) -> str:
        """Run a command where the flows run."""
        return self.run("exec", "-T", "flows", *command)

    def workers(self) -> list[str]:
        """The ids of their containers that run."""
        return self.run("ps", "--quiet", "worker").split()

    def log(self, container: str) -> str:
        return docker("logs", container).stdout


def docker(*arguments: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("docker", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def has_image(name: str) -> bool:
    if docker("image", "inspect", name).returncode == 0:
        return True
    try:
        return docker("pull", "--quiet", name, timeout_s=120).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def find_compose() -> tuple[str, ...] | None:
    if not shutil.which("docker") or docker("info").returncode:
        return None
    if docker("compose", "version").returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else None


@pytest.fixture
def stack(root: Path, tmp_path: Path) -> Iterator[Stack]:
    compose = find_compose()
    if compose is None:
        pytest.skip("no container engine with compose runs here")
    if not has_image(_BASE):
        pytest.skip(f"the image {_BASE} can't be had")
    files = ["compose.yaml"] if has_image(_POSTGRES) else ["compose.yaml", "compose.debian.yaml"]
    if len(files) > 1 and not has_image(_DEBIAN):
        pytest.skip(f"neither {_POSTGRES} nor {_DEBIAN} can be had")
    project = make_workspace(root, tmp_path)
    folder = project.folder / "docker"
    name = f"fer-test-{secrets.token_hex(4)}"
    first = free_ports(4)
    settings = {
        "FER_IMAGE": name,
        "COMPOSE_PROJECT_NAME": name,
        "COMPOSE_FILE": os.pathsep.join(files),
        "FER_IMAGE_SERVE": f"{name}-serve",
        **{f"{key}_PORT": str(first + n) for n, key in enumerate(_SERVERS)},
        **{
            key: secrets.token_hex(16)
            for key in ("POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        },
    }
    (folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    stack = Stack(folder, compose, project.env, first + _SERVERS.index("SERVE"))
    image = ("-f", str(folder / "Dockerfile"), str(project.folder))
    build("-t", name, *image)
    build("-t", f"{name}-serve", "--target", "serve", *image)
    if len(files) > 1:
        build("-f", str(folder / "postgres.Dockerfile"), "-t", "fer-fusion-postgres", str(folder))
    try:
        yield stack
    finally:
        stack.run("--profile", "serve", "down", "--volumes", "--timeout", "5")
        docker("image", "rm", name, f"{name}-serve")


def build(*arguments: str) -> None:
    # Over the host's network: it may have its own way to the packages.
    built = docker("build", "--network", "host", *arguments)
    assert built.returncode == 0, built.stdout


def test_a_run_survives_its_worker_and_what_it_made_the_containers(stack: Stack) -> None:
    up = ("up", "--detach", "--no-build", "--scale", "worker=2")
    stack.run(*up)
    command = (*stack.command, "exec", "-T", "flows", "python", "-m", "flows", "pipeline")
    with subprocess.Popen(
        (*command, "--workers"),
        cwd=stack.folder,
        env=stack.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:

        def trains() -> str | None:
            assert run.poll() is None, run.communicate()[0]
            found = (one for one in stack.workers() if "Running stage 'train@" in stack.log(one))
            return next(found, None)

        docker("kill", wait_until(trains, "a worker trains"))
        said = run.communicate()[0]
    assert said.splitlines()[-1].endswith("Gate passed: version 1 of fer-fusion."), said

    stack.run("down", "--timeout", "30")
    stack.run(*up)
    assert stack.flows("python", "-c", _VERSION).strip() == "READY"
    assert "up to date" in stack.flows("dvc", "status")
    assert "COMPLETED" in stack.flows(
        "prefect", "flow-run", "ls", "--flow-name", "pipeline", "-o", "json"
    )
    assert stack.flows("id", "-u").strip() == "1000"

    stack.flows("fer", "registry", "promote", "1")
    stack.run("--profile", "serve", "up", "--detach", "--no-build", "serve")
    served = stack.run("--profile", "serve", "ps", "--quiet", "serve").strip()
    healthy = ("inspect", "--format", "{{.State.Health.Status}}", served)
    wait_until(lambda: docker(*healthy).stdout.strip() == "healthy", "the champion answers")
    (answer,) = ask(stack.serve_port, {"inputs": np.zeros((1, 48, 48), int).tolist()})
    assert list(answer) == list(EMOTIONS)
    assert sum(answer.values()) == pytest.approx(1)


def ask(port: int, content: dict[str, Any]) -> list[dict[str, float]]:
    """What the served model says."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(content).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
        predictions: list[dict[str, float]] = json.load(answer)["predictions"]
    return predictions

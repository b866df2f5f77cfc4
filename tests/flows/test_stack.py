"""The services as processes of one machine: a run through all of them, and what stays of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import is_installed
from processes import assert_none_left, kill_all, processes_with
from workspace import make_workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="no PostgreSQL: install Debian's 'postgresql'"),
]

_RUNS = "import mlflow; print(*mlflow.search_runs(experiment_names=['fer2013'])['status'])"


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder that the user of PostgreSQL may enter, as pytest's may not."""
    folder = Path(tempfile.mkdtemp(prefix="stack-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    kill_all(str(folder))
    shutil.rmtree(folder)


def test_a_training_goes_through_all_services_and_what_they_keep_outlives_them(
    root: Path, tmp_path: Path, state: Path
) -> None:
    workspace = make_workspace(root, tmp_path)
    stack = (sys.executable, "-m", "flows", "stack", "--state", str(state))

    run = ("python", "-m", "flows", "pipeline", "--workers", "--target", "train@resnet50")
    workspace.check(*stack, "--workers", "1", "--", *run)

    assert list((state / "worker-1").glob(".dvc/tmp/trees/*/models/resnet50/model.safetensors"))
    assert not processes_with(str(state))
    assert (state / "env").stat().st_mode & 0o077 == 0
    addresses = (state / "env").read_text()

    command = (*stack, "--workers", "0")
    with subprocess.Popen(
        command, cwd=tmp_path, env=workspace.env, stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        while not (line := up.stdout.readline()).startswith("to use it in a shell:"):
            assert line
        assert addresses.replace("WORKERS=1", "WORKERS=0") == (state / "env").read_text()
        again = workspace.run(*command)
        assert again.returncode == 1
        assert again.stderr.startswith(f"error: the stack in {state} is up already")
        assert workspace.check(*stack, "--", "python", "-c", _RUNS).split() == ["FINISHED"]
        clone = state / "clone"
        take = "git clone -q . $0 && cp dvc.lock $0 && cd $0 && dvc pull -q train@resnet50"
        workspace.check(*stack, "--", "sh", "-c", take, str(clone))
        assert (clone / "models" / "resnet50" / "model.safetensors").exists()
        up.kill()
    for mark in (str(tmp_path), str(state)):  # supervisord, and what it ran
        assert_none_left(mark, 60.0)


def test_without_a_commit_there_is_nothing_for_workers_to_clone(
    tmp_path: Path, state: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    command = (sys.executable, "-m", "flows", "stack", "--state", str(state))
    done = subprocess.run(
        (*command, "--folder", str(tmp_path)), env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} has no commit of the project")

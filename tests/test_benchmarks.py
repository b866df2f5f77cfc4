"""Benchmarks say why a command of theirs failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FAILS = "#!/bin/sh\necho cloning\necho 'no space left' >&2\nexit 28\n"
NO_TORCH = "raise ImportError('libgomp.so.1 is missing')\n"


def run(root: Path, name: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"benchmarks/{name}"],
        cwd=root,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [("pipeline.py", "git clone"), ("orchestration.py", "git init"), ("scale.py", "git init")],
)
def test_a_benchmark_whose_command_fails_shows_its_output(
    root: Path, tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / "git").write_text(FAILS)
    (tmp_path / "git").chmod(0o755)
    done = run(root, name, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    first, *rest = done.stderr.splitlines()
    assert done.returncode == 1
    assert first.startswith(command)
    assert first.endswith("ended with status 28:")
    assert rest == ["cloning", "no space left"]


def test_a_benchmark_whose_command_is_missing_names_it(root: Path, tmp_path: Path) -> None:
    done = run(root, "orchestration.py", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("git init --quiet could not start: ")


def test_a_benchmark_whose_own_process_fails_shows_its_output(root: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(NO_TORCH)
    done = run(root, "busy.py", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "busy.py --work train --threads" in done.stderr.splitlines()[0]
    assert done.stderr.endswith("ImportError: libgomp.so.1 is missing\n")


def test_a_server_that_does_not_start_shows_its_log(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect.py").write_text("raise SystemExit('database is locked')\n")
    monkeypatch.syspath_prepend(root / "benchmarks")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import orchestration

    with (
        pytest.raises(SystemExit, match=r"prefect server start .*\n.*database is locked"),
        orchestration.server(tmp_path, {}),
    ):
        pass

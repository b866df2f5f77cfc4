"""What `make` does on machines that differ: which Python it takes, and a folder without git."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

_OUTER = {"PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
"""What a `make test` that runs these tests hands on to the `make` that they run."""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with no Python: a folder of the few programs that the Makefile calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "env", "echo", "git", "cat"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    for name in ("requirements-dev.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    return programs


def make(root: Path, machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--makefile", str(root / "Makefile"), *arguments],
        cwd=machine.parent,
        env={key: value for key, value in os.environ.items() if key not in _OUTER}
        | {"PATH": str(machine)},
        capture_output=True,
        text=True,
        check=False,
    )


def install(machine: Path, name: str, *, works: bool) -> None:
    (machine / name).write_text(f"#!/bin/sh\nexit {0 if works else 1}\n")
    (machine / name).chmod(0o755)


@pytest.mark.parametrize(
    ("installed", "taken"),
    [
        ({"python3.11": True, "python3.12": True}, "python3.12"),
        ({"python3.12": True, "python3.13": False}, "python3.12"),  # a shim that leads nowhere
        ({"python3.11": True, "python3.14": True}, "python3.11"),
        ({"python3": True}, "python3"),
    ],
)
def test_the_newest_python_that_works_is_taken(
    installed: dict[str, bool], taken: str, root: Path, machine: Path
) -> None:
    for name, works in installed.items():
        install(machine, name, works=works)
    assert f"python='{taken}';" in make(root, machine, "--dry-run", "setup").stdout


def test_an_environment_that_was_moved_is_made_anew(root: Path, machine: Path) -> None:
    install(machine, "python3.13", works=True)
    ready = machine.parent / ".venv" / ".ready"
    (ready.parent / "bin").mkdir(parents=True)
    install(ready.parent / "bin", "python", works=True)

    ready.write_text(f"{machine.parent}\n")
    assert "Nothing to be done" in make(root, machine, "--dry-run", "setup").stdout
    ready.write_text("/where/it/was\n")
    said = make(root, machine, "--dry-run", "setup").stdout
    assert "--reinstall" in said
    assert "-z 'moved'" in said  # and the environment itself


def test_setup_bears_an_apostrophe_in_the_path(root: Path, machine: Path) -> None:
    install(machine, "python3.13", works=True)
    folder = machine.parent / "Anna's"
    folder.mkdir()
    for name in ("requirements-dev.lock", "pyproject.toml", "bin"):
        (folder / name).symlink_to(machine.parent / name)
    said = make(root, folder / "bin", "--dry-run", "setup").stdout
    subprocess.run(["sh", "-n"], input=said, text=True, check=True)


def test_without_a_python_one_line_says_what_to_do(root: Path, machine: Path) -> None:
    said = make(root, machine, "setup")

    assert said.returncode == 2
    assert said.stderr.startswith("error: no Python from 3.11 to 3.14 with venv is installed: ")


def test_an_unpacked_archive_becomes_a_git_repository(
    root: Path, machine: Path, disown_repositories: Callable[[], None]
) -> None:
    assert "made one" in make(root, machine, "repository").stdout
    assert (machine.parent / ".git").is_dir()
    assert make(root, machine, "repository").stdout == ""
    disown_repositories()
    assert make(root, machine, "repository").stdout == ""

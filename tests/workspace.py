"""Real workspaces with tiny params: a git and DVC repository, or a folder to run stages by hand."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from fer_pipeline.cli.main import main as fer
from fer_pipeline.paths import GRAPH, PARAMS, SOURCE_LOCK
from fer_pipeline.stages import launch

if TYPE_CHECKING:
    from dvc.repo import Repo

TrainHere = Callable[..., subprocess.CompletedProcess[str]]
"""The fixture `train_here`: takes a workspace, and variables of the environment."""

SAMPLE = {"train": 28, "val": 14, "test": 14, "seed": 0}

_HIDDEN_TOOLS = Path(__file__).with_name("hidden_tools")

# Larger files (weights and their copies in DVC's cache) are never changed in place.
_LINK_FROM_BYTES = 1 << 20


@dataclass(frozen=True)
class Workspace:
    """A folder with the project in it, and the environment that its commands run in."""

    folder: Path
    env: dict[str, str]

    def run(self, *command: str, **extra_env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and give what it printed, whatever its exit status."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | extra_env,
            capture_output=True,
            text=True,
            check=False,
        )

    def check(self, *command: str) -> str:
        """Run a command that must succeed, and give its output."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def repo(self) -> Iterator[Repo]:
        """DVC's repository in this process, which then has not to import DVC for each command."""
        from dvc.repo import Repo

        with self.entered(), Repo(self.folder) as repo:
            yield repo

    @contextlib.contextmanager
    def entered(self, **extra_env: str) -> Iterator[pytest.MonkeyPatch]:
        """This process in the folder, with its environment; what else is patched ends with it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in (self.env | extra_env).items():
                patch.setenv(name, value)
            yield patch

    def edit_params(self, **values: object) -> None:
        """Set params by dotted key, with `__` for the dots."""
        path = self.folder / "params.yaml"
        yaml = YAML()
        content = yaml.load(path.read_text())
        for dotted, value in values.items():
            *parents, last = dotted.split("__")
            section = content
            for parent in parents:
                section = section[parent]
            section[last] = value
        yaml.dump(content, path)

    def outs(self) -> dict[str, str]:
        """DVC's hash of every out, by path."""
        lock = YAML(typ="safe").load((self.folder / "dvc.lock").read_text())
        return {
            out["path"]: out["md5"]
            for stage in lock["stages"].values()
            for out in stage.get("outs", [])
        }


class InProcess(Workspace):
    """A workspace whose stages and `fer` commands run in this process: none imports torch again."""

    def run(self, *command: str, **extra_env: str) -> subprocess.CompletedProcess[str]:
        is_stage = command[:3] == stage("")[:3]
        if not (is_stage or command[0] == "fer"):
            return super().run(*command, **extra_env)
        output, errors = io.StringIO(), io.StringIO()
        with (
            self.entered(**extra_env) as patch,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            patch.setattr(sys, "argv", list(command[2:] if is_stage else command))
            try:
                status = launch.main() if is_stage else fer()
            except SystemExit as end:
                status = end.code
        return subprocess.CompletedProcess(
            command, int(status or 0), output.getvalue(), errors.getvalue()
        )


def stage(name: str, *arguments: str) -> tuple[str, ...]:
    """The command of a stage."""
    return (sys.executable, "-m", "fer_pipeline.stages", name, *arguments)


TRAIN = stage("train", "resnet50")


def tiny_backbone(head: dict[str, Any], finetune: dict[str, Any], size: int = 32) -> dict[str, Any]:
    """A backbone's params: random weights, and the smallest images that it takes."""
    return {
        "weights": "none",
        "weights_sha256": None,
        "image_size": size,
        "eval_resize": size,
        "head": {"cached_views": 0} | head,
        "finetune": dict(finetune),  # YAML would name one object once, and edits change both
    }


def shrink(workspace: Workspace) -> None:
    """The smallest run that still goes through every line: seconds per stage.

    Two of the three backbones do: the graph goes over whatever `backbones` names. `gate.min_gain`
    is -1, so that the gate passes whatever two untrained networks score.
    """
    phase: dict[str, Any] = {"epochs": 1, "batch_size": 14, "learning_rate": 1e-3}
    backbones = {
        "resnet50": tiny_backbone(phase, phase),
        "inception_v3": tiny_backbone(phase, phase, size=75),
    }
    workspace.edit_params(
        data__sample=SAMPLE,
        backbones=backbones,
        predict__tta="flip",
        evaluation__bootstrap_draws=200,
        gate__min_gain=-1.0,
    )


def make_workspace(root: Path, folder: Path, *, small: bool = True) -> Workspace:
    """What a fresh clone of the project at `root` would be, with tiny params if `small`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    workspace = Workspace(folder, environment(folder))
    if small:
        shrink(workspace)
    workspace.check("git", "init", "--quiet", "--initial-branch=main")
    workspace.check("git", "add", "--all")
    workspace.check("git", "commit", "--quiet", "--message", "Start")
    (folder / ".dvc" / "config.local").write_text("[cache]\n    type = hardlink,copy\n")
    return workspace


def make_bare_workspace(root: Path, folder: Path) -> Workspace:
    """A folder with params.yaml and the pin alone, in which stages run by hand."""
    for path in (PARAMS, SOURCE_LOCK, GRAPH):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy2(root / path, folder / path)
    shutil.copytree(root / "locks", folder / "locks")
    workspace = Workspace(folder, environment(folder, code=root))
    workspace.edit_params(data__sample=SAMPLE)
    return workspace


def copy_workspace(source: Workspace, folder: Path) -> Workspace:
    """A copy that may be changed; it shares the large files with its source."""

    def copy(original: str, target: str) -> str:
        if Path(original).stat().st_size < _LINK_FROM_BYTES or original.endswith(".db"):
            return shutil.copy2(original, target)
        Path(target).hardlink_to(original)
        return target

    shutil.copytree(source.folder, folder, copy_function=copy, symlinks=True, dirs_exist_ok=True)
    here = {
        key: value.replace(str(source.folder), str(folder)) for key, value in source.env.items()
    }
    if (folder / "mlflow.db").exists():
        from fer_pipeline.registry.local_store import relocate

        relocate(f"sqlite:///{folder / 'mlflow.db'}", "fer2013")
    return Workspace(folder, here)


def environment(folder: Path, code: Path | None = None) -> dict[str, str]:
    """This process's environment, without settings from outside, for commands in a workspace.

    The workspace runs its own copy of the code, or the one in `code`. Tools of the tests that the
    pipeline's own requirements do not have, but its libraries import where they find them, are
    hidden: they cost each training two seconds.
    """
    dropped = ("MLFLOW_", "DVC_", "GIT_", "AWS_", "FER_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{code or folder}{os.pathsep}{_HIDDEN_TOOLS}",
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "site"),
        "DVC_NO_ANALYTICS": "true",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.invalid",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.invalid",
    }

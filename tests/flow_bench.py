"""A small DVC project for tests of flows: real stages that follow a plan of the test."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect_server import PrefectServer
from processes import output_of, wait_until
from ruamel.yaml import YAML
from workspace import Workspace, environment

from flows.runs import settle
from flows.session import LOCK
from flows.slots import take_lock

# What a stage of the bench does: it notes when it began and ended, and in between does as
# plan.json says of it.
_STEP = """
import json, os, sys, time
from pathlib import Path
from fer_pipeline.events import emit

name = sys.argv[1]
bench = Path(os.environ.get("BENCH", "."))  # the test's folder, also where a worker runs the stage
plan = json.loads((bench / "plan.json").read_text()).get(name, {})

def note(what):
    with (bench / "notes.jsonl").open("a") as notes:
        keys = ("CUDA_VISIBLE_DEVICES", "FER_CLONE", "FER_CORES")
        values = {key: os.environ.get(key) for key in keys}
        notes.write(json.dumps({"stage": name, "what": what, "at": time.time(), **values}) + "\\n")

note("begin")
if "checkpoint" in plan:  # as a training that goes on where it was
    done = Path(f"checkpoint-{name}")
    done.write_text(str(int(done.read_text()) + 1 if done.exists() else 1))
for epoch in range(1, plan.get("epochs", 0) + 1):
    emit("epoch", backbone=name, phase="finetune", epoch=epoch, epochs=plan["epochs"],
         val_accuracy=epoch / 10, images_per_s=7.0)
    print("epoch", epoch, flush=True)
if "together" in plan:  # it ends only when so many stages have begun
    (bench / f"began-{name}").touch()
    while len(list(bench.glob("began-*"))) < plan["together"]:
        time.sleep(0.05)
time.sleep(plan.get("seconds", 0))
if plan.get("fails_once") and not Path(f"tried-{name}").exists():
    Path(f"tried-{name}").touch()
    emit("error", message="the server is away", transient=True)
    sys.exit(1)
if "fails" in plan:
    emit("error", message=plan["fails"], transient=False)
    sys.exit(1)
out = Path(f"out/{name}")
out.parent.mkdir(exist_ok=True)
out.write_text(name)
note("end")
"""


@dataclass(frozen=True)
class FlowBench:
    """The project, and the server that its flows report to."""

    workspace: Workspace
    server: PrefectServer

    @property
    def folder(self) -> Path:
        return self.workspace.folder

    def plan(self, **stages: dict[str, Any]) -> None:
        """What stages do from now on; `train_a` is `train@a`."""
        plan = {name.replace("_", "@"): what for name, what in stages.items()}
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def start(self, flow: str = "pipeline", *arguments: str) -> subprocess.Popen[str]:
        """Start a flow as people do, and go on."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows", flow, *arguments],
            cwd=self.folder,
            env=self.workspace.env | self.server.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, flow: str = "pipeline", *arguments: str) -> tuple[int, str]:
        """Run one to its end; gives exit status and output."""
        process = self.start(flow, *arguments)
        output = output_of(process)
        return process.returncode, output

    def run_here(self, flow: str = "pipeline", **parameters: Any) -> State[None]:
        """Run one in this process, which has imported all that it needs; gives its end."""
        work = getattr(import_module(f"flows.{flow}"), flow)
        with self.here():
            return settle(work(folder=self.folder, **parameters, return_state=True))

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let this process be one with the environment and the server of the project."""
        settings = {PREFECT_API_URL: self.server.api, PREFECT_LOGGING_TO_API_ENABLED: False}
        with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
            for name, value in (self.workspace.env | self.server.env()).items():
                patch.setenv(name, value)
            yield

    def change(self, file: str, before: str, after: str) -> None:
        """Have the flows here wait less than people do, as a constant of theirs says."""
        path = self.folder / file
        text = path.read_text()
        assert f"\n{before}\n" in text
        path.write_text(text.replace(f"\n{before}\n", f"\n{after}\n"))

    def notes(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The last note of each kind, by stage and what."""
        file = self.folder / "notes.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        notes = [json.loads(line) for line in lines]
        return {(note["stage"], note["what"]): note for note in notes}

    def forget(self) -> None:
        for file in (self.folder / "notes.jsonl", *self.folder.glob("began-*")):
            file.unlink(missing_ok=True)

    def wait_until_begun(self, *stages: str) -> None:
        wanted = {(stage, "begin") for stage in stages}
        wait_until(lambda: wanted <= self.notes().keys(), f"{stages} run")

    def is_free(self) -> bool:
        """Whether no run holds the folder."""
        lock = take_lock(self.folder / LOCK, "a test")
        if lock is not None:
            lock.close()
        return lock is not None

    def newest_run(self) -> dict[str, Any]:
        """The newest run that began: what other tests deployed is scheduled for days to come."""
        return next(run for run in self.server.flow_runs() if run["start_time"])


def make_bench(
    root: Path, folder: Path, server: PrefectServer, names: tuple[str, ...] = ("a", "b")
) -> FlowBench:
    """prepare, then train@NAME side by side, then calibrate."""
    folder.mkdir(parents=True)
    # Without GPUs, for the flow: a test that wants some names them.
    env = environment(folder, code=root) | {"CUDA_VISIBLE_DEVICES": ""}
    workspace = Workspace(folder, env)
    shutil.copy2(root / "prefect.yaml", folder)
    no_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "flows", folder / "flows", ignore=no_cache)
    YAML().dump({"backbones": {name: {} for name in names}}, folder / "params.yaml")
    (folder / "step.py").write_text(_STEP)
    (folder / "plan.json").write_text("{}")
    train = {
        "cmd": "python step.py train@${key}",
        "deps": ["out/prepare"],
        "outs": ["out/train@${key}"],
        "meta": {"slot": True, "deadline_h": 1},
    }
    stages = {
        "prepare": {"cmd": "python step.py prepare", "outs": ["out/prepare"]},
        "train": {"foreach": "${backbones}", "do": train},
        "calibrate": {
            "cmd": "python step.py calibrate",
            "deps": [f"out/train@{name}" for name in names],
            "outs": ["out/calibrate"],
        },
    }
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return FlowBench(workspace, server)


def last_line(output: str) -> str:
    """What a command said last; on a busy machine Prefect may say after it that it still sends."""
    lines = [line for line in output.splitlines() if "Still processing items" not in line]
    return lines[-1]

"""What a flow and a worker tell each other of a stage: the order, and what came of it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from fer_pipeline.errors import FlowError
from fer_pipeline.paths import DVC_LOCK, PARAMS, SOURCE_LOCK
from fer_pipeline.repair import is_whole_dvc_lock
from flows.trees import git

_TRAVEL = (str(PARAMS), str(SOURCE_LOCK), str(DVC_LOCK))
"""The tracked files that may differ from the commit: their texts are part of the order."""

RESULT_LABEL = "fer-result"
"""Of the worker's run, which tells the flow that waits what came out."""

_TORN_TRIES = 50
_TRANSFER = Path(__file__).with_name("transfer.py")


class Order(BaseModel):
    """A stage to run, and all that decides its outs.

    Attributes:
        stage: as DVC names it.
        commit: of the code, in full.
        files: the texts of what may differ from the commit, by path.
        inputs: DVC's hash of what the stage depends on, by path, as far as the flow knows it.
        force: run it even if DVC knows its outs.
        deadline_s: seconds after which it is ended.
        env: variables of the stage, over those of the worker.
        defaults: variables for a worker that does not set them itself.
    """

    # A worker of an older clone must not pass over what it does not know.
    model_config = ConfigDict(extra="forbid")
    stage: str
    commit: str
    files: dict[str, str]
    inputs: dict[str, str]
    force: bool = False
    deadline_s: float | None = None
    env: dict[str, str] = {}
    defaults: dict[str, str] = {}


class Result(BaseModel):
    """What came of an order.

    Attributes:
        entry: the stage's, in `dvc.lock`.
        ran: whether its command ran; DVC's run-cache may have known the outs.
        mlflow_runs: the events of the MLflow runs that it logged to, by the runs' names.
    """

    model_config = ConfigDict(extra="forbid")
    entry: dict[str, Any]
    ran: bool
    mlflow_runs: dict[str, dict[str, Any]]


def transfer_command(verb: str, *arguments: str) -> list[str]:
    """The command of a verb of `flows.transfer`."""
    # -P: the folder of that file holds modules whose names libraries may use.
    return [sys.executable, "-P", str(_TRANSFER), verb, *arguments]


@contextmanager
def as_file(message: Order | Result) -> Iterator[str]:
    """The path of a file with an order or a result, for that command."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write(message.model_dump_json())
        file.flush()
        yield file.name


def commit_to_send(folder: Path) -> str:
    """The commit that workers check out: all that they run must be in it.

    Raises:
        FlowError: files differ from it, or the folder is no git repository of its own.
    """
    head = git(folder, "rev-parse", "--show-cdup", "HEAD")  # a line each
    top, _, commit = head.stdout.rstrip("\n").partition("\n")
    if head.returncode or top:
        why = " ".join(head.stderr.split()) if "safe.directory" in head.stderr else ""
        raise FlowError(
            f"{folder.resolve()} is not the top of a git repository with a commit: workers get the "
            f"code by git{why and f': {why}'}"
        )
    changed = git(folder, "status", "--porcelain", "--untracked-files=no").stdout
    names = [line[3:] for line in changed.splitlines()]
    if left := [name for name in names if name not in _TRAVEL]:
        raise FlowError(
            f"not committed: {', '.join(left)}. Workers get the code by git, so commit and push "
            f"it, or run without workers ({', '.join(_TRAVEL[:2])} need no commit)"
        )
    return commit


def travelling_files(folder: Path) -> dict[str, str]:
    """The texts that an order carries; of those that there are.

    Raises:
        FlowError: `dvc.lock` stays torn.
    """
    found = ((path, folder / path) for path in _TRAVEL)
    files = {path: file.read_bytes().decode() for path, file in found if file.exists()}
    for _ in range(_TORN_TRIES):
        lock = files.get(str(DVC_LOCK))
        if lock is None or is_whole_dvc_lock(lock):
            return files
        time.sleep(0.1)  # DVC writes it in place when another stage ends
        files[str(DVC_LOCK)] = (folder / DVC_LOCK).read_bytes().decode()
    raise FlowError(f"{DVC_LOCK} is torn: 'fer repair' mends that")


def lock_entry(folder: Path, stage: str) -> dict[str, Any]:
    """What `dvc.lock` says of a stage that has run.

    Raises:
        FlowError: nothing.
    """
    entry = _stages((folder / DVC_LOCK).read_text(encoding="utf-8")).get(stage)
    if entry is None:
        raise FlowError(f"{DVC_LOCK} has no {stage}: DVC did not record that it ran")
    return dict(entry)


def known_inputs(files: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The hashes of a stage's deps at this moment, where all that it reads has been made.

    A folder in which other stages write is left out: what they wrote there comes by the hashes in
    `dvc.lock`.

    Args:
        files: of the order, with `dvc.lock`.
        before: the hashes of all deps when the run began, empty for those that were not there.
    """
    outs = {
        out["path"]: str(out["md5"])
        for entry in _stages(files.get(str(DVC_LOCK), "")).values()
        for out in entry.get("outs", [])
    }
    folders = {str(parent) for path in outs for parent in Path(path).parents}
    now = {path: outs.get(path, value) for path, value in before.items() if path not in folders}
    return {path: value for path, value in now.items() if value}


def _stages(lock: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = YAML(typ="safe").load(lock) or {}
    return content.get("stages", {}) or {}

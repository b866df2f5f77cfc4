"""`fer accept`: an edit of code that changes no result costs no run.

DVC compares text, so a comment in the training's code makes every training out of date. Git knows
the text that DVC has on record, or had in the committed `dvc.lock` with the same outs: where the
code of both parses to the same program, apart from docstrings, `dvc commit` records the new text
for the outs that are there.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from fer_pipeline.errors import DataError
from fer_pipeline.paths import DVC_LOCK
from fer_pipeline.provenance import code_digest

COMMITS = 200
"""The number of commits of a piece of code that are searched for the text on record."""

_DVC = (sys.executable, "-m", "dvc")


@dataclass(frozen=True)
class Finding:
    """What became of one stage: its name, whether it was accepted, and why in one sentence."""

    stage: str
    accepted: bool
    reason: str


def accept(stages: list[str]) -> list[Finding]:
    """Record edits that change no program, so that their stages do not run again.

    Args:
        stages: names as DVC has them, or of a group; empty for all that are out of date.

    Returns:
        A finding for each stage that is out of date.

    Raises:
        DataError: DVC or git fails, or there is no such stage.
    """
    findings = []
    for stage, changes in json.loads(_run(*_DVC, "status", "--json", *stages)).items():
        fault = _fault(stage, changes)
        if not fault:
            _run(*_DVC, "commit", "--force", stage)
        said = fault or f"the same program: accepted{_advice(changes)}"
        findings.append(Finding(stage, not fault, said))
    return findings


def _advice(changes: list[Any]) -> str:
    """What to do after code was accepted that git does not have."""
    deps = [dep for change in changes for dep in change["changed deps"]]
    uncommitted = _run("git", "status", "--porcelain", "--", *deps)
    return "; commit this edit before the next one" if uncommitted else ""


def _fault(stage: str, changes: list[Any]) -> str:
    """Why a stage has to run; empty where nothing but text has changed."""
    changed: set[str] = set()
    for change in changes:
        if not isinstance(change, dict) or set(change) != {"changed deps"}:
            return f"more than code has changed: run 'dvc repro {stage}'"
        for dep, how in change["changed deps"].items():
            if how != "modified" or not _is_code(Path(dep)):
                return f"{dep} has changed: run 'dvc repro {stage}'"
            changed.add(dep)
    here, committed = _records(stage)
    fault = _first_difference(changed, here)
    if fault and committed:
        others = {dep for dep in here if here[dep] != committed[dep]}
        fault = _first_difference(changed | others, committed)
    return f"{fault}: run 'dvc repro {stage}'" if fault else ""


def _is_code(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))


def _first_difference(deps: set[str], record: dict[str, str]) -> str:
    found = (_difference(Path(dep), record.get(dep)) for dep in sorted(deps))
    return next(filter(None, found), "")


def _difference(path: Path, recorded: str | None) -> str:
    """How a piece of code differs from the text with this hash; empty where it does not."""
    if recorded is None:
        return f"{path} was no dependency when it ran"
    for commit in _run("git", "log", f"-{COMMITS}", "--format=%H", "--", str(path)).split():
        with tempfile.TemporaryDirectory() as folder:
            _extract(commit, path, Path(folder))
            if dvc_hash(Path(folder) / path) == recorded:
                same = code_digest([Path(folder) / path]) == code_digest([path])
                return "" if same else f"{path} has changed in more than comments and layout"
    return (
        f"no commit has {path} as it was when it ran or was accepted, so nobody can tell what has "
        f"changed"
    )


def dvc_hash(path: Path) -> str:
    """DVC's hash of a file, or of a folder and all in it."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = {one.relative_to(path).as_posix(): one for one in path.rglob("*") if one.is_file()}
    entries = [{"md5": dvc_hash(files[name]), "relpath": name} for name in sorted(files)]
    listing = json.dumps(entries, sort_keys=True).encode()
    return f"{hashlib.md5(listing, usedforsecurity=False).hexdigest()}.dir"


def _records(stage: str) -> tuple[dict[str, str], dict[str, str]]:
    """The hashes of the code that a stage was made with: of `dvc.lock`, and of the committed one.

    The latter is empty unless all else, the outs too, is the same in both: only then did either
    code make these outs.
    """
    asked = ["git", "show", f"HEAD:./{DVC_LOCK}"]
    committed = subprocess.run(asked, capture_output=True, encoding="utf-8", check=False).stdout
    here = DVC_LOCK.read_text(encoding="utf-8") if DVC_LOCK.exists() else ""
    (code, rest), (old, same) = (_record(text, stage) for text in (here, committed))
    return code, old if same == rest and old.keys() == code.keys() else {}


def _record(lock: str, stage: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What the text of a `dvc.lock` says of a stage: the hashes of its code, and all else."""
    entry = (YAML(typ="safe").load(lock) or {"stages": {}})["stages"].get(stage, {})
    deps = entry.get("deps", [])
    code = {str(one["path"]): str(one["md5"]) for one in deps if _is_code(Path(one["path"]))}
    return code, {**entry, "deps": [one for one in deps if one["path"] not in code]}


def _extract(commit: str, path: Path, folder: Path) -> None:
    asked = ["git", "archive", "--format=zip", commit, "--", str(path)]
    done = subprocess.run(asked, capture_output=True, check=False)
    if done.returncode == 0:  # else the commit took it away
        zipfile.ZipFile(io.BytesIO(done.stdout)).extractall(folder)


def _run(*command: str) -> str:
    """What a command prints.

    Raises:
        DataError: it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        shown = " ".join(command).removeprefix(f"{sys.executable} -m ")
        raise DataError(f"'{shown}' failed: {said.removeprefix('ERROR: ')}")
    return done.stdout

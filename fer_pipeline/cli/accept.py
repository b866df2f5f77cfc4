"""`fer accept`: an edit of code that changes no result costs no run.

DVC compares text, so a comment in the training's code makes every training out of date. Git knows
the text that DVC has on record: where the code of both parses to the same program, apart from
docstrings, `dvc commit` records the new text for the outs that are there.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
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
        findings.append(Finding(stage, not fault, fault or "the same program: accepted"))
    return findings


def _fault(stage: str, changes: list[Any]) -> str:
    """Why a stage has to run; empty where nothing but text has changed."""
    for change in changes:
        if not isinstance(change, dict) or set(change) != {"changed deps"}:
            return f"more than code has changed: run 'dvc repro {stage}'"
        for dep, how in change["changed deps"].items():
            if how != "modified" or not _is_code(Path(dep)):
                return f"{dep} has changed: run 'dvc repro {stage}'"
            recorded = _on_record(stage, dep)
            if recorded is None:
                return f"{dep} was no dependency when it ran: run 'dvc repro {stage}'"
            if fault := _difference(Path(dep), recorded):
                return f"{fault}: run 'dvc repro {stage}'"
    return ""


def _is_code(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))


def _difference(path: Path, recorded: str) -> str:
    """How a piece of code differs from the text with this hash; empty where it does not."""
    for commit in _run("git", "log", f"-{COMMITS}", "--format=%H", "--", str(path)).split():
        with tempfile.TemporaryDirectory() as folder:
            _extract(commit, path, Path(folder))
            if dvc_hash(Path(folder) / path) == recorded:
                same = code_digest([Path(folder) / path]) == code_digest([path])
                return "" if same else f"{path} has changed in more than comments and layout"
    return f"no commit has {path} as it was when it ran, so nobody can tell what has changed"


def dvc_hash(path: Path) -> str:
    """DVC's hash of a file, or of a folder and all in it."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = {one.relative_to(path).as_posix(): one for one in path.rglob("*") if one.is_file()}
    entries = [{"md5": dvc_hash(files[name]), "relpath": name} for name in sorted(files)]
    listing = json.dumps(entries, sort_keys=True).encode()
    return f"{hashlib.md5(listing, usedforsecurity=False).hexdigest()}.dir"


def _on_record(stage: str, dep: str) -> str | None:
    """The hash in `dvc.lock` of what a stage was made with; None where there is none."""
    if not DVC_LOCK.exists():
        return None
    stages = YAML(typ="safe").load(DVC_LOCK.read_text(encoding="utf-8"))["stages"]
    deps = stages.get(stage, {}).get("deps", [])
    return next((str(one["md5"]) for one in deps if one["path"] == dep), None)


def _extract(commit: str, path: Path, folder: Path) -> None:
    done = subprocess.run(
        ["git", "archive", commit, "--", str(path)], capture_output=True, check=False
    )
    if done.returncode == 0:  # else the commit took it away
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")


def _run(*command: str) -> str:
    """What a command prints.

    Raises:
        DataError: it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise DataError(f"'{' '.join(command)}' failed: {said.removeprefix('ERROR: ')}")
    return done.stdout

"""Which commit and which data made a model: from git and from `dvc.lock`."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML


@dataclass(frozen=True)
class GitState:
    """The commit of the working tree, or `unknown`, and whether tracked files differ from it."""

    commit: str
    dirty: bool


def git_state() -> GitState:
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return GitState("unknown", dirty=False)
    # The stages of this very run have changed dvc.lock: that says nothing about what they ran.
    rest = ("--", ":(exclude)dvc.lock")
    return GitState(commit, bool(_git("status", "--porcelain", "--untracked-files=no", *rest)))


def dvc_hashes(lock: Path) -> dict[str, str]:
    """DVC's hash of every out in `dvc.lock`, by path; empty where there is no lock."""
    if not lock.exists():
        return {}
    stages = (YAML(typ="safe").load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {
        out["path"]: out[out.get("hash", "md5")]
        for stage in stages.values()
        for out in stage.get("outs", [])
    }


def content_digest(paths: list[Path]) -> str:
    """One sha256 over the contents of several files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

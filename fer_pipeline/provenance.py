"""Which commit, code and data made a model: from git, from files and from `dvc.lock`."""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterable
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


def code_digest(paths: Iterable[Path]) -> str:
    """One sha256 of what files do: of Python its syntax tree, of any other file its bytes.

    Comments, docstrings and the formatting of Python files change nothing of it. A new minor
    version of Python may.

    Args:
        paths: files, and folders of which every file counts, with its place in the folder. Where
            the paths themselves lie is not part of the digest; their order is.

    Raises:
        FileNotFoundError: a path does not exist.
        SyntaxError: a Python file can't be parsed.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in _files_below(path):
            digest.update(f"{file.relative_to(path).as_posix()}\n".encode())
            digest.update(_code_sha256(file))
    return digest.hexdigest()


def _files_below(path: Path) -> list[Path]:
    """A file itself; of a folder all files, without the bytecode that Python leaves there."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if "__pycache__" not in file.parts)
    return sorted(file for file in found if file.is_file())


def _code_sha256(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".py":
        tree = _WithoutDocstrings().visit(ast.parse(content, filename=str(path)))
        content = ast.dump(tree).encode()
    return hashlib.sha256(content).digest()


class _WithoutDocstrings(ast.NodeTransformer):
    """Removes every statement that is a text and nothing else."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

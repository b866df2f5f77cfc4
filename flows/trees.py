"""Trees: copies of the project, at one commit each, in which stages run beside each other.

A tree is a git repository of its own below `.dvc/tmp/trees` of a clone. It shares that clone's DVC
cache, is made once and used again, by one run at a time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from dvc.config import Config
from dvc.exceptions import DvcException

from fer_pipeline.errors import FlowError, TransientFlowError, hide_password, one_line
from fer_pipeline.files import write_text
from fer_pipeline.repair import repair

REPOSITORY_VARIABLE = "FER_REPOSITORY"
"""Where commits are fetched from, as git takes it; else the clone, and what it was cloned from."""

_TREES = Path(".dvc/tmp/trees")
_FETCH = ("fetch", "--quiet", "--no-tags")
_UNKNOWN = "not our ref|couldn't find remote ref|no such remote ref"
"""What git says of a commit that a repository does not have."""


def tree_of(clone: Path, name: str) -> Path:
    """Where a tree lies, made or not; any text names one."""
    return clone.resolve() / _TREES / re.sub(r"[^\w.-]+", "-", name)


def prepare_tree(clone: Path, tree: Path, commit: str, files: Mapping[str, str]) -> None:
    """Bring a tree to a commit, whatever an earlier run has left in it, and write files over it.

    What DVC and git ignore stays: outs, which DVC knows, and checkpoints.

    Args:
        clone: which has the tree.
        tree: from `tree_of`.
        commit: its full hash.
        files: texts by path.

    Raises:
        FlowError: no repository has the commit, or git or DVC can't do it.
        TransientFlowError: a repository does not answer.
        DataError: a DVC command runs in the tree.
    """
    if not (tree / ".git" / "HEAD").exists():
        shutil.rmtree(tree, ignore_errors=True)  # begun by a run that was killed
        tree.mkdir(parents=True)
        _succeed(tree, "init", "--quiet")
    for left in (tree / ".git").glob("*.lock"):  # by a git that was killed: nobody else works here
        left.unlink()
    repair(tree)
    _fetch(clone, tree, commit)
    _succeed(tree, "checkout", "--quiet", "--force", "--detach", commit)
    _succeed(tree, "clean", "--quiet", "--force", "-d")
    _share_cache(clone, tree)
    for path, text in files.items():
        write_text(tree / path, text)


def _fetch(clone: Path, tree: Path, commit: str) -> None:
    """Get the commit from the first repository that has it."""
    if git(tree, "cat-file", "-e", f"{commit}^{{commit}}").returncode == 0:
        return
    places = [os.environ.get(REPOSITORY_VARIABLE) or str(clone.resolve())]
    origin = git(clone, "remote", "get-url", "origin")
    if REPOSITORY_VARIABLE not in os.environ and origin.returncode == 0:
        places.append(origin.stdout.strip())
    said = {}
    for place in places:
        # In the clone, to which a path without a beginning belongs.
        got = git(clone, f"--git-dir={tree / '.git'}", *_FETCH, place, commit)
        if got.returncode == 0:
            return
        said[place] = _last_line(got)
    known = all(re.search(_UNKNOWN, line) for line in said.values())
    text = "; ".join(f"{place}: {line}" for place, line in said.items())
    raise (FlowError if known else TransientFlowError)(
        hide_password(
            f"commit {commit[:10]} can't be had ({text}): push it, or set {REPOSITORY_VARIABLE} on "
            f"this machine to a repository that has it"
        )
    )


def _share_cache(clone: Path, tree: Path) -> None:
    """Give the tree the clone's own settings of DVC, and its cache."""
    shared, local = (folder.resolve() / ".dvc" / "config.local" for folder in (clone, tree))
    write_text(local, shared.read_text(encoding="utf-8") if shared.exists() else "")
    local.chmod(0o600)  # it may hold keys
    try:
        ours = Config(str(shared.parent))
        with Config(str(local.parent)).edit("local") as own:
            own["cache"]["dir"] = str(ours["cache"].get("dir", shared.parent / "cache"))
            for name, remote in ours["remote"].items():
                if Path(remote["url"]).is_absolute():  # it may be named by its way from the clone
                    own["remote"].setdefault(name, {})["url"] = str(remote["url"])
    except DvcException as error:
        raise FlowError(f"DVC can't read its settings in {clone}: {one_line(error)}") from error


def _succeed(folder: Path, *command: str) -> None:
    done = git(folder, *command)
    if done.returncode:
        raise FlowError(f"'git {' '.join(command)}' failed in {folder}: {_last_line(done)}")


def git(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run git, whatever comes of it."""
    # DVC hashes the bytes of text files: they are the commit's, whatever git is told elsewhere.
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.autocrlf"}
    env = {**os.environ, **settings, "GIT_CONFIG_VALUE_0": "false", "GIT_TERMINAL_PROMPT": "0"}
    asked = ["git", *command]
    return subprocess.run(asked, cwd=folder, env=env, capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]

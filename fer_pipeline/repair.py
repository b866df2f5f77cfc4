"""What a killed `dvc repro` can leave behind that stops the next one, and its repair.

DVC 3.67 rewrites two files in place, so a kill in the wrong moment tears them: `dvc.lock`, for a
tenth of a second at the end of each stage, and `.dvc/tmp/rwlock`, its note of who reads and
writes what, briefly and often. All else that it writes is renamed into place or is a SQLite
journal, and it copes with what a kill leaves of that, but for an entry of its run-cache: it makes
the entry's folder first, at which the next run fails as long as it is empty, and reads a temporary
file in there as the newest entry.

Nothing computed is lost with `dvc.lock`: DVC has stored a stage in its run-cache before it writes
the lock, and `dvc repro` takes the finished stages from there without running them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fer_pipeline.errors import DataError
from fer_pipeline.files import write_text
from fer_pipeline.paths import DVC_LOCK

_DVC_TMP = Path(".dvc/tmp")
_RUN_CACHE = Path(".dvc/cache/runs")
_LOCK_TIMEOUT_S = 5.0


def repair(folder: Path) -> list[str]:
    """Make `dvc repro` startable in the folder of `dvc.yaml`; returns what was done, in words.

    Raises:
        DataError: a DVC command runs here: a file that is being written looks torn.
    """
    if not (folder / _DVC_TMP).is_dir():
        return []
    try:
        with FileLock(folder / _DVC_TMP / "lock", timeout=_LOCK_TIMEOUT_S):
            done = (_repair_dvc_lock(folder), _repair_rwlock(folder), _repair_run_cache(folder))
    except Timeout:
        raise DataError("a DVC command is running here: wait until it has ended") from None
    return [step for step in done if step]


def is_whole_dvc_lock(text: str) -> bool:
    """Whether this is a complete `dvc.lock`, not the beginning of one.

    Stricter than DVC's own schema, which lets entries without a hash pass, at which `dvc repro`
    then ends with no message. A beginning that ends just after a complete entry does count as
    whole: DVC then finds a stage changed and takes it from its run-cache.
    """
    if not text.endswith("\n"):
        return False
    try:
        lock = YAML(typ="safe").load(text)
    except YAMLError:
        return False
    if not isinstance(lock, Mapping) or lock.get("schema") != "2.0":
        return False
    stages = lock.get("stages")
    return isinstance(stages, Mapping) and all(map(_is_whole_stage, stages.values()))


def _is_whole_stage(stage: object) -> bool:
    if not isinstance(stage, Mapping) or not stage.get("cmd"):
        return False
    entries = [stage.get(kind, []) for kind in ("deps", "outs")]
    params = stage.get("params", {})
    return (
        all(isinstance(some, list) and all(map(_is_whole_entry, some)) for some in entries)
        and isinstance(params, Mapping)
        and all(isinstance(values, Mapping) for values in params.values())
    )


def _is_whole_entry(entry: object) -> bool:
    if not isinstance(entry, Mapping):
        return False
    hashed = str(entry.get("md5"))
    keys = {"path", "md5", "size"} | ({"nfiles"} if hashed.endswith(".dir") else set())
    return keys <= {key for key, value in entry.items() if value is not None}


def _repair_dvc_lock(folder: Path) -> str | None:
    path = folder / DVC_LOCK
    if not path.exists() or is_whole_dvc_lock(path.read_text(encoding="utf-8", errors="replace")):
        return None
    known = _known_to_git(folder)
    if known is not None and is_whole_dvc_lock(known):
        write_text(path, known)
        return f"{DVC_LOCK} was torn: put back as git knows it"
    path.unlink()
    return f"{DVC_LOCK} was torn: removed, DVC writes it again from its run-cache"


def _known_to_git(folder: Path) -> str | None:
    """`dvc.lock` as last added or committed; it lists what is in DVC's remote."""
    try:
        shown = subprocess.run(
            ["git", "show", f":./{DVC_LOCK}"],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return shown.stdout


def _repair_rwlock(folder: Path) -> str | None:
    path = folder / _DVC_TMP / "rwlock"
    if not path.exists():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        holders = _holders(held)
    except (ValueError, TypeError, AttributeError, KeyError):
        path.unlink()
        return f"{path.relative_to(folder)} was torn: removed, DVC writes it again"
    if not _only_strangers(holders):
        return None
    path.unlink()
    return f"{path.relative_to(folder)} named a process that is not DVC: removed"


def _holders(held: Any) -> list[tuple[int, str]]:
    """Process number and command of everyone in DVC's note."""
    readers = [reader for some in held.get("read", {}).values() for reader in some]
    holders = [*held.get("write", {}).values(), *readers]
    return [(int(holder["pid"]), str(holder["cmd"])) for holder in holders]


def _only_strangers(holders: list[tuple[int, str]]) -> bool:
    """Whether DVC would wait for processes that only have the numbers of those that held.

    So it is after a container's restart. DVC itself passes over a number that no process has.
    """
    found = [(command, _command_line(pid)) for pid, command in holders]
    alive = [(command, line) for command, line in found if line is not None]
    return bool(alive) and not any(command in line or "dvc" in line for command, line in alive)


def _command_line(pid: int) -> str | None:
    """The command of a process; None if there is none, or no /proc to look into."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return b" ".join(arguments).decode(errors="replace")


def _repair_run_cache(folder: Path) -> str | None:
    """Delete what DVC had begun to write there.

    It takes the newest file in a run's folder for a finished run, and fails where there is none.
    """
    begun = list((folder / _RUN_CACHE).glob("*/*/*.tmp"))
    for path in begun:
        path.unlink()
    empty = [run for run in (folder / _RUN_CACHE).glob("*/*") if not any(run.iterdir())]
    for run in empty:
        run.rmdir()
    return "an unfinished entry of DVC's run-cache: removed" if begun or empty else None

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fer_pipeline.errors import DvcBusyError
from fer_pipeline.files import write_text
from fer_pipeline.paths import DVC_LOCK

_DVC_TMP = Path(".dvc/tmp")
_RUN_CACHE = Path(".dvc/cache/runs")
_LOCK_TIMEOUT_S = 5.0

_TORN = (ValueError, TypeError, AttributeError, KeyError)
"""What comes of reading a note of DVC that a kill has torn."""


def repair(folder: Path) -> list[str]:
    """Make `dvc repro` startable in the folder of `dvc.yaml`; returns what was done, in words.

    Raises:
        DvcBusyError: a DVC command runs here: a file that is being written looks torn.
    """
    if not (folder / _DVC_TMP).is_dir():
        return []
    with _locked(folder):
        done = (_repair_dvc_lock(folder), _repair_rwlock(folder), _repair_run_cache(folder))
    return [step for step in done if step]


def require_idle(folder: Path) -> None:
    """Refuse while DVC works there: its own error advises to delete its note of that.

    Raises:
        DvcBusyError: a DVC command runs here.
    """
    path = folder / _DVC_TMP / "rwlock"
    if not path.exists():
        return
    with _locked(folder), suppress(*_TORN):  # of a torn one DVC speaks itself
        if any(map(_is_dvc, _holders(path))):
            raise DvcBusyError(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / _DVC_TMP / "lock", timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout:
        raise DvcBusyError(folder) from None


def is_whole_dvc_lock(text: str) -> bool:
    """Whether this is a complete `dvc.lock`, not the beginning of one.

    Stricter than DVC's own schema, which lets entries without a hash pass, at which `dvc repro`
    then ends with no message. A beginning that ends just after a complete entry does count as
    whole: DVC then finds a stage changed and takes it from its run-cache.
    """
    try:
        stages = YAML(typ="safe").load(text)["stages"].values()
        return text.endswith("\n") and all(map(_is_whole_stage, stages))
    except (YAMLError, AttributeError, KeyError, TypeError):
        return False


def _is_whole_stage(stage: Mapping[str, Any]) -> bool:
    entries = [*stage.get("deps", []), *stage.get("outs", [])]
    files = stage.get("params", {}).values()
    return (
        bool(stage["cmd"])
        and all(isinstance(values, Mapping) for values in files)
        and all(map(_is_whole_entry, entries))
    )


def _is_whole_entry(entry: Mapping[str, Any]) -> bool:
    known = {key for key, value in entry.items() if value is not None}
    is_folder = str(entry["md5"]).endswith(".dir")
    return {"path", "md5", "size"} <= known and (not is_folder or "nfiles" in known)


def _repair_dvc_lock(folder: Path) -> str | None:
    path = folder / DVC_LOCK
    if not path.exists() or is_whole_dvc_lock(path.read_text(encoding="utf-8", errors="replace")):
        return None
    # As last added or committed; it lists what is in DVC's remote.
    asked = ["git", "show", f":./{DVC_LOCK}"]
    known = subprocess.run(asked, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    if is_whole_dvc_lock(known.stdout):
        write_text(path, known.stdout)
        return f"{DVC_LOCK} was torn: put back as git knows it"
    path.unlink()
    return f"{DVC_LOCK} was torn: removed, DVC writes it again from its run-cache"


def _repair_rwlock(folder: Path) -> str | None:
    """Remove the note if it is torn, or if DVC would wait for processes that are not DVC.

    After a container's restart others may have the numbers of those that held. DVC itself passes
    over a number that no process has.
    """
    path = folder / _DVC_TMP / "rwlock"
    if not path.exists():
        return None
    try:
        alive = _holders(path)
        if not alive or any(map(_is_dvc, alive)):
            return None
    except _TORN:
        path.unlink()
        return f"{path.relative_to(folder)} was torn: removed, DVC writes it again"
    path.unlink()
    return f"{path.relative_to(folder)} named a process that is not DVC: removed"


def _holders(rwlock: Path) -> list[Mapping[str, Any]]:
    """The processes that read or write something, by DVC's note, and have not ended."""
    held = json.loads(rwlock.read_text(encoding="utf-8", errors="replace"))
    holders = [*held.get("write", {}).values(), *chain(*held.get("read", {}).values())]
    return [one for one in holders if psutil.pid_exists(one["pid"])]


def _is_dvc(holder: Mapping[str, Any]) -> bool:
    try:
        line = " ".join(psutil.Process(holder["pid"]).cmdline())
    except psutil.Error:  # it has ended, or is somebody else's
        return False
    return holder["cmd"] in line or "dvc" in line


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

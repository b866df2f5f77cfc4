"""Repair tells what a killed DVC left from what is whole or in use, and touches only the first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.exceptions import ReproductionError
from dvc.repo import Repo
from filelock import FileLock

from fer_pipeline import repair as module
from fer_pipeline.errors import DvcBusyError
from fer_pipeline.repair import is_whole_dvc_lock, repair, require_idle

LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: python -m fer_pipeline.stages.prepare
    deps:
    - path: data/raw/faces.parquet
      hash: md5
      md5: 6f1ed002ab5595859014ebf0951522d9
      size: 2304
    params:
      params.yaml:
        data.protocol: official
    outs:
    - path: plots/confusion
      hash: md5
      md5: 8c7dd922ad47494fc02c388e12c00eac.dir
      size: 10
      nfiles: 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text(LOCK)
    return tmp_path


def write_rwlock(folder: Path, pid: int, command: str) -> Path:
    path = folder / ".dvc" / "tmp" / "rwlock"
    path.write_text(json.dumps({"write": {"a": {"pid": pid, "cmd": command}}, "read": {}}))
    return path


def test_what_is_whole_is_left_alone(folder: Path) -> None:
    rwlock = folder / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text("{}")
    assert repair(folder) == []
    assert (folder / "dvc.lock").read_text() == LOCK
    assert rwlock.read_text() == "{}"


def test_a_folder_where_dvc_never_ran_is_left_alone(tmp_path: Path) -> None:
    assert repair(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_only_beginnings_that_end_with_a_complete_entry_count_as_whole() -> None:
    whole = [LOCK[:end] for end in range(len(LOCK)) if is_whole_dvc_lock(LOCK[:end])]
    assert [text.splitlines()[-1].strip() for text in whole] == [
        "cmd: python -m fer_pipeline.stages.prepare",
        "size: 2304",
        "data.protocol: official",
    ]


@pytest.mark.parametrize("end", [0, 100, 300])
def test_a_torn_dvc_lock_that_git_does_not_know_is_removed(folder: Path, end: int) -> None:
    (folder / "dvc.lock").write_text(LOCK[:end])
    assert repair(folder) == ["dvc.lock was torn: removed, DVC writes it again from its run-cache"]
    assert not (folder / "dvc.lock").exists()


def test_a_torn_dvc_lock_that_git_knows_is_put_back(folder: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "dvc.lock"], cwd=folder, check=True)
    (folder / "dvc.lock").write_text("")
    assert repair(folder) == ["dvc.lock was torn: put back as git knows it"]
    assert (folder / "dvc.lock").read_text() == LOCK


@pytest.mark.parametrize("left", ["", '{"write": {"data/raw/fa'])
def test_a_torn_rwlock_is_removed(folder: Path, left: str) -> None:
    rwlock = folder / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text(left)
    assert repair(folder) == [".dvc/tmp/rwlock was torn: removed, DVC writes it again"]
    assert not rwlock.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_an_rwlock_whose_number_another_process_has_now_is_removed(folder: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        rwlock = write_rwlock(folder, other.pid, "/venv/bin/dvc repro")
        assert repair(folder) == [".dvc/tmp/rwlock named a process that is not DVC: removed"]
        other.kill()
    assert not rwlock.exists()


def test_the_rwlock_of_a_dead_dvc_is_left_to_dvc(folder: Path) -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    rwlock = write_rwlock(folder, dead.pid, "/venv/bin/dvc repro")
    assert repair(folder) == []
    assert rwlock.exists()


def test_the_rwlock_of_a_running_dvc_stays(folder: Path) -> None:
    waiting = [sys.executable, "-c", "print(flush=True); input()", "/venv/bin/dvc", "repro"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dvc:
        assert dvc.stdout is not None
        dvc.stdout.readline()  # until then its command line may not be in /proc
        rwlock = write_rwlock(folder, dvc.pid, "/venv/bin/dvc repro")
        assert repair(folder) == []
        with pytest.raises(DvcBusyError, match=f"^a DVC command runs in {folder}: wait until it"):
            require_idle(folder)
        dvc.kill()
    assert rwlock.exists()
    require_idle(folder)


def test_nothing_is_touched_while_dvc_holds_its_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_S", 0.1)
    (folder / "dvc.lock").write_text("")
    with (
        FileLock(folder / ".dvc" / "tmp" / "lock", is_singleton=False),
        pytest.raises(
            DvcBusyError, match=f"^a DVC command runs in {folder}: wait until it has ended"
        ),
    ):
        repair(folder)
    assert (folder / "dvc.lock").exists()


@pytest.mark.parametrize("note", ["null", "[]", '{"read": 3}', '{"write": {"a": {}}}'])
def test_a_rwlock_that_is_no_note_of_dvc_is_removed(folder: Path, note: str) -> None:
    rwlock = folder / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text(note)
    assert len(repair(folder)) == 1
    assert not rwlock.exists()


@pytest.fixture
def runs(folder: Path) -> Path:
    """Entries of DVC's run-cache."""
    made = folder / ".dvc/cache/runs/f7"
    made.mkdir(parents=True)
    return made


def test_a_whole_entry_of_the_run_cache_stays(folder: Path, runs: Path) -> None:
    (runs / "f7a1").mkdir()
    (runs / "f7a1/9fc3").write_text("cmd: whole\n")
    assert repair(folder) == []
    (runs / "f7a1/.4kZ.tmp").write_text("cmd: begun")
    assert repair(folder) == ["an unfinished entry of DVC's run-cache: removed"]
    assert [path.name for path in (runs / "f7a1").iterdir()] == ["9fc3"]


@pytest.mark.parametrize("begun", [None, "", "cmd: begun"])
def test_a_folder_of_the_run_cache_without_a_whole_entry_goes(
    folder: Path, runs: Path, begun: str | None
) -> None:
    (runs / "f7a1").mkdir()
    if begun is not None:
        (runs / "f7a1/.4kZ.tmp").write_text(begun)
    assert repair(folder) == ["an unfinished entry of DVC's run-cache: removed"]
    assert list(runs.iterdir()) == []


@pytest.mark.slow
def test_dvc_runs_again_a_stage_whose_entry_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    Path("dvc.yaml").write_text("stages: {a: {cmd: cp in out, deps: [in], outs: [out]}}")
    Path("in").touch()
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
        for path in (*Path(".dvc/cache/runs").glob("*/*/*"), Path("dvc.lock"), Path("out")):
            path.unlink()
        with pytest.raises(ReproductionError):
            repo.reproduce()
        repair(tmp_path)
        repo.reproduce()
    assert Path("out").exists()

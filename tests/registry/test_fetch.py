"""Temporary folders lie in the project, and what a killed process left goes with the next."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from fer_pipeline.paths import SCRATCH
from fer_pipeline.registry.fetch import scratch_folder


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_temporary_files_lie_in_the_folder_and_go_with_it() -> None:
    before = tempfile.gettempdir()
    with scratch_folder() as folder:
        assert folder.is_relative_to(SCRATCH.resolve())
        assert Path(tempfile.mkdtemp()).parent == folder
    assert list(SCRATCH.iterdir()) == []
    assert tempfile.gettempdir() == before


def test_a_leftover_goes_and_the_folder_of_a_process_that_runs_stays() -> None:
    for name in ("killed", "running"):
        (SCRATCH / name).mkdir(parents=True)
        (SCRATCH / name / "weights").write_text("many")
        (SCRATCH / f"{name}.lock").touch()
    with FileLock(SCRATCH / "running.lock"), scratch_folder():
        assert not (SCRATCH / "killed").exists()
        assert (SCRATCH / "running" / "weights").exists()
    assert {path.name for path in SCRATCH.iterdir()} == {"running", "running.lock"}

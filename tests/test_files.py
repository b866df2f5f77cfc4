"""A file is whole or not there, whatever happens to the process that writes it."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from fer_pipeline.errors import DataError
from fer_pipeline.files import read_csv, whole_file, write_csv, write_json, write_text

KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from fer_pipeline.files import whole_file
with whole_file(Path(sys.argv[1])) as partial:
    partial.write_text("a very long beginning of something new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, reason: type[BaseException]) -> None:
    with whole_file(path) as partial:
        partial.write_text("new, but")
        raise reason


@pytest.mark.parametrize("reason", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(
    reason: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "model.json"
    path.write_text("old")
    with pytest.raises(reason):
        write_half(path, reason)
    assert path.read_text() == "old"
    assert files_in(tmp_path) == ["model.json"]


def test_a_block_that_fails_before_it_writes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="early"), whole_file(tmp_path / "model.json"):
        raise ValueError("early")
    assert files_in(tmp_path) == []


def test_success_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text("old and longer")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old and longer"
    assert path.read_text() == "new"
    assert files_in(tmp_path) == ["model.json"]


def test_folders_are_made_and_the_partial_keeps_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "split.npz"
    with whole_file(path) as partial:
        assert partial.parent == path.parent
        assert partial.suffix == ".npz"
        assert partial.name.startswith(".")
        partial.touch()
    assert path.exists()


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(files_in(tmp_path)) == 2
    write_text(path, "new")
    assert path.read_text() == "new"
    assert files_in(tmp_path) == ["model.json"]


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 200_000),
    "npz": lambda path: np.savez(path, a=np.zeros(200_000)),
    "parquet": lambda path: pq.write_table(
        pa.table({"a": np.random.default_rng(0).random(90_000)}), path
    ),
    "safetensors": lambda path: save_file({"a": np.zeros(200_000)}, path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_what_does_not_fit_is_named_whatever_writes_it(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "out.npz"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as a quota
    try:
        with pytest.raises(DataError) as refused, whole_file(path) as partial:
            write(partial)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(refused.value) == (
        f"{path} can't be written (File too large): free space on its disk, then run the same again"
    )
    assert path.read_text() == "old"
    assert files_in(tmp_path) == ["out.npz"]


def test_clearing_up_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    (tmp_path / ".partial-out").mkdir()  # which can't be unlinked
    with pytest.raises(ValueError, match="the cause"), whole_file(tmp_path / "out"):
        raise ValueError("the cause")


@pytest.mark.parametrize("text", ["", "epoch\n", "epoch,loss\n1\n", "epoch,loss\n1,0.2", 'a\n"1'])
def test_rows_that_are_cut_or_missing_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path} can't be read .*--single-item train@resnet50'"):
        read_csv(path, "train@resnet50")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_number(value: float, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"loss": {"val": [value]}})
    assert json.loads(path.read_text()) == {"loss": 1.5}
    assert files_in(tmp_path) == ["metrics.json"]


def test_json_keeps_the_order_of_its_keys_and_ends_in_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"b": 1, "a": None})
    assert path.read_bytes() == b'{\n  "b": 1,\n  "a": null\n}\n'


def test_csv_has_the_first_rows_keys_as_header_and_unix_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, [{"emotion": "sad, very", "images": 1}, {"images": 2, "emotion": "fear"}])
    assert path.read_bytes() == b'emotion,images\n"sad, very",1\nfear,2\n'


def test_a_csv_row_with_a_strange_key_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, [{"epoch": 1}])
    with pytest.raises(ValueError, match="epochs"):
        write_csv(path, [{"epoch": 1}, {"epochs": 2}])
    assert path.read_text() == "epoch\n1\n"
    assert files_in(tmp_path) == ["rows.csv"]

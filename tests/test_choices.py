"""What a stage chose is found again by its inputs on the same kind of machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from fer_pipeline import choices
from fer_pipeline.choices import Choices, describe_cpu


def test_a_cpu_is_named_with_the_cores_that_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\n\nmodel name\t: Other\n")
    monkeypatch.setattr(choices, "_CPU_INFO", info)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert describe_cpu() == "Some CPU: 3 GHz, 2 cores"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert describe_cpu() == "Some CPU: 3 GHz, 1 core"


def test_without_a_name_the_architecture_stands_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "_CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert describe_cpu().startswith(f"{platform.machine()}, ")


def test_a_choice_is_recalled_for_the_same_inputs_on_the_same_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Choices("one").remember("precision", "EPYC", "bf16")
    Choices("one").remember("threads", "EPYC", "2")
    assert Choices("one").recall("precision", "EPYC") == "bf16"
    assert Choices("one").recall("threads", "EPYC") == "2"
    assert Choices("one").recall("threads", "Xeon") is None
    assert Choices("other").recall("threads", "EPYC") is None


@pytest.mark.parametrize("damaged", ["", "[1]", '{"threads on EPYC": "2"'])
def test_a_damaged_file_holds_no_choice_and_is_written_anew(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints/choices").mkdir(parents=True)
    (tmp_path / "checkpoints/choices/one.json").write_text(damaged)
    assert Choices("one").recall("threads", "EPYC") is None
    Choices("one").remember("threads", "EPYC", "1")
    assert Choices("one").recall("threads", "EPYC") == "1"

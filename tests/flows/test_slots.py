"""Slots: as many as the machine has, and never one for two at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event, Thread

import pytest
from processes import WITHIN_S

from fer_pipeline.errors import FlowError, StoppedError
from flows import slots as module
from flows.process import Processes
from flows.slots import Slot, acquire_slot, machine_slots, visible_gpus

CORES = len(os.sched_getaffinity(0))
PATIENT = Processes(Path())
"""Whether the run ends: it does not, so that it waits for as long as it must."""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: no GPU, nothing in the environment; gives its folder of programs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "POLL_S", 0.02)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("FER_TRAIN_SLOTS", raising=False)
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/bin")
    install_nvidia_smi(programs, "exit 9")
    return programs


def install_nvidia_smi(programs: Path, script: str) -> None:
    program = programs / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("wanted", [1, 3, 5])
def test_without_gpu_and_word_there_are_as_many_as_are_wanted(wanted: int) -> None:
    slots = machine_slots(wanted)
    assert [slot.name for slot in slots] == [f"CPU {n + 1} of {wanted}" for n in range(wanted)]


def test_there_is_always_one() -> None:
    assert machine_slots(0) == [Slot("CPU 1 of 1", {"FER_CORES": str(CORES)})]


def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_TRAIN_SLOTS", "2")
    assert [slot.name for slot in machine_slots(7)] == ["CPU 1 of 2", "CPU 2 of 2"]
    monkeypatch.setenv("FER_TRAIN_SLOTS", "")
    assert len(machine_slots(7)) == 7


@pytest.mark.parametrize("said", ["0", "-1", "two", "1.5", " ", "²", "1,2"])
def test_what_is_no_number_of_slots_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_TRAIN_SLOTS", said)
    with pytest.raises(FlowError, match=f"FER_TRAIN_SLOTS is '{said}': give a whole number from 1"):
        machine_slots(3)


@pytest.mark.parametrize(("count", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (9, 1)])
def test_the_threads_are_divided(count: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [slot.env for slot in machine_slots(count)] == [{"FER_CORES": str(threads)}] * count


@pytest.mark.parametrize(
    ("said", "gpus"),
    [
        ("0,1", ["0", "1"]),
        (" 3 , 1 ", ["3", "1"]),
        ("GPU-8932f937-d72c,MIG-GPU-b0/1/0", ["GPU-8932f937-d72c", "MIG-GPU-b0/1/0"]),
        ("", []),
        ("-1", []),
        ("1,-1,0", ["1"]),  # as CUDA reads it: what follows an impossible one is hidden
    ],
)
def test_gpus_are_those_of_cuda_visible_devices(
    said: str, gpus: list[str], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvidia_smi(machine, "echo 0; echo 1; echo 2; echo 3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    monkeypatch.setenv("FER_TRAIN_SLOTS", "1")
    assert visible_gpus() == gpus
    expected = [Slot(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus]
    assert machine_slots(5) == (expected or [Slot("CPU 1 of 1", {"FER_CORES": str(CORES)})])


def test_without_a_word_of_cuda_the_driver_is_asked(machine: Path) -> None:
    install_nvidia_smi(machine, "echo 0; echo 1")
    assert visible_gpus() == ["0", "1"]
    install_nvidia_smi(machine, "echo no driver; exit 9")
    assert visible_gpus() == []
    (machine / "nvidia-smi").unlink()
    assert visible_gpus() == []


def test_no_slot_is_held_twice_and_the_next_waits_and_tells_once() -> None:
    slots = machine_slots(2)
    logged: list[str] = []
    third: list[str] = []
    waits = Event()

    def wait_for_one() -> None:
        def on_wait(text: str) -> None:
            logged.append(text)
            waits.set()

        with acquire_slot(slots, "third", PATIENT, on_wait) as (slot, _):
            third.append(slot.name)

    with ExitStack() as held:
        first, _ = held.enter_context(acquire_slot(slots, "first", PATIENT, logged.append))
        with acquire_slot(slots, "second", PATIENT, logged.append) as (second, _):
            assert {first.name, second.name} == {"CPU 1 of 2", "CPU 2 of 2"}
            assert logged == []
            thread = Thread(target=wait_for_one)
            thread.start()
            assert waits.wait(WITHIN_S)
            thread.join(0.2)  # ten attempts
            assert third == []
        thread.join(WITHIN_S)
        assert third == [second.name]
    assert logged == ["waiting to try again: all slots are taken: CPU 1 of 2, CPU 2 of 2"]


def test_a_run_that_ends_while_it_waits_raises(tmp_path: Path) -> None:
    slots = machine_slots(1)
    with (
        closing(Processes(tmp_path)) as processes,
        acquire_slot(slots, "first", PATIENT, print),
        pytest.raises(StoppedError, match="the run ended while it waited"),
        acquire_slot(slots, "second", processes, lambda _: processes.close()),
    ):
        raise AssertionError


def test_an_error_in_the_block_frees_the_slot() -> None:
    slots = machine_slots(1)
    with pytest.raises(ZeroDivisionError), acquire_slot(slots, "first", PATIENT, print):
        raise ZeroDivisionError
    with acquire_slot(slots, "second", PATIENT, print) as (slot, _):
        assert slot == slots[0]


def test_flows_that_count_differently_share_the_slots_of_a_machine() -> None:
    with (
        acquire_slot(machine_slots(1), "one", PATIENT, print),
        acquire_slot(machine_slots(2), "two", PATIENT, print) as (slot, _),
    ):
        assert slot.name == "CPU 2 of 2"


HOLD = """
import sys
from pathlib import Path
from flows.process import Processes
from flows.slots import acquire_slot, machine_slots
def waits(_):
    print("waits", flush=True)
with acquire_slot(machine_slots(9), "me", Processes(Path()), waits) as (slot, _):
    print(slot.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path, root: Path) -> Iterator[object]:
    """Starts processes that hold a slot each, on a machine with two."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        env = os.environ | {
            "PYTHONPATH": str(root),
            "TMPDIR": str(tmp_path),
            "FER_TRAIN_SLOTS": "2",
            "CUDA_VISIBLE_DEVICES": "",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_processes_never_share_a_slot_and_a_killed_ones_is_free_at_once(holder: object) -> None:
    assert callable(holder)
    first, second = holder(), holder()
    names = [process.stdout.readline().strip() for process in (first, second)]
    assert sorted(names) == ["CPU 1 of 2", "CPU 2 of 2"]
    third = holder()
    assert third.stdout.readline() == "waits\n"
    second.kill()
    assert third.stdout.readline().strip() == names[1]

"""Lock files, and with them the slots of this machine: one per GPU, else `FER_TRAIN_SLOTS`.

The kernel frees a lock with the last process that holds it, however that ends. A lock may be
handed to a child process, which then holds it too: a slot stays taken until the training on its
GPU is gone, even when the flow itself was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat, takewhile
from pathlib import Path
from typing import IO

from fer_pipeline.errors import FlowError, TransientFlowError
from fer_pipeline.threads import CORES_VARIABLE
from flows.process import POLL_S, Processes

VARIABLE = "FER_TRAIN_SLOTS"


def take_lock(path: Path, holder: str) -> IO[str] | None:
    """Take the lock of a file if it is free; the file stays, and names its last holder.

    Returns:
        The file: whoever closes it, or ends with it, frees the lock. None if another has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.truncate(0)
    lock.write(holder)
    lock.flush()
    return lock


def require_lock(path: Path, holder: str, folder: Path) -> IO[str]:
    """Take the lock of those who work in a folder.

    Raises:
        TransientFlowError: another has it, whom the message names.
    """
    if (lock := take_lock(path, holder)) is None:
        other = path.read_text(encoding="utf-8") or "another run"
        raise TransientFlowError(
            f"{other} works in {folder.resolve()}: wait until it has ended, or give this run a "
            f"copy of the project"
        )
    return lock


@dataclass(frozen=True)
class Slot:
    """A GPU or a share of the cores, for one stage at a time.

    Attributes:
        name: for messages.
        env: variables for the process that has the slot: its GPU, or its number of threads.
    """

    name: str
    env: dict[str, str]


def machine_slots(wanted: int) -> list[Slot]:
    """The slots of this machine.

    Args:
        wanted: how many stages could use one at the same time: the number of slots where there
            is no GPU and `FER_TRAIN_SLOTS` is not set.

    Raises:
        FlowError: `FER_TRAIN_SLOTS` is no number of slots.
    """
    gpus = visible_gpus()
    if gpus:
        return [Slot(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus]
    value = os.environ.get(VARIABLE) or str(max(1, wanted))
    if not (value.isdecimal() and int(value) > 0):
        raise FlowError(f"{VARIABLE} is '{value}': give a whole number from 1, or unset it")
    count = int(value)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = {CORES_VARIABLE: str(max(1, (cores or 1) // count))}
    return [Slot(f"CPU {number} of {count}", share) for number in range(1, count + 1)]


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as CUDA names them: those of `CUDA_VISIBLE_DEVICES`, else all."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is not None:
        # CUDA hides an invalid one and all that follow it.
        return list(takewhile(lambda gpu: gpu not in ("", "-1"), map(str.strip, value.split(","))))
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.split()


@contextmanager
def acquire_slot(
    slots: list[Slot], holder: str, processes: Processes, log: Callable[[str], None]
) -> Iterator[tuple[Slot, int]]:
    """Wait for a free slot and hold it; gives it, and the descriptor of its lock.

    Args:
        slots: of this machine.
        holder: written to the lock file.
        processes: of the run; the wait ends with them.
        log: called once with a message if no slot is free.

    Raises:
        StoppedError: the run is ending.
    """

    def acquire() -> tuple[Slot, IO[str]]:
        for slot in slots:
            if lock := take_lock(_lock_path(slot), holder):
                return slot, lock
        raise TransientFlowError(f"all slots are taken: {', '.join(s.name for s in slots)}")

    slot, lock = processes.retry(acquire, log, repeat(POLL_S))
    with lock:
        yield slot, lock.fileno()


def _lock_path(slot: Slot) -> Path:
    # A GPU's name may be a UUID or a slice of one, and a slot's name holds spaces.
    key = hashlib.sha256(slot.name.partition(" of ")[0].encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"fer-fusion-{os.getuid()}" / f"slot-{key}.lock"

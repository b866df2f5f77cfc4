"""Places for trainings on this machine: one per GPU, else as many as `FER_TRAIN_SLOTS` says.

A slot is a lock file, shared by all flows of this user on this machine. The kernel frees it with
the last process that holds it: not before the training on a GPU is gone, and always then.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from flows.errors import FlowError, StoppedError
from flows.locks import Lock

VARIABLE = "FER_TRAIN_SLOTS"

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Slot:
    """One place.

    Attributes:
        name: for people.
        env: what a process in it is told: its GPU, or its share of the CPU threads.
    """

    name: str
    env: dict[str, str]


def machine_slots(wanted: int) -> list[Slot]:
    """The slots of this machine.

    Args:
        wanted: how many stages could use one at the same time: the number of slots where there
            is neither a GPU nor a word in the environment.

    Raises:
        FlowError: `FER_TRAIN_SLOTS` is no number of slots.
    """
    gpus = visible_gpus()
    if gpus:
        return [Slot(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus]
    said = os.environ.get(VARIABLE, "")
    if said and not (said.isdecimal() and int(said) > 0):
        raise FlowError(f"{VARIABLE} is '{said}': give a whole number from 1, or unset it")
    count = int(said) if said else max(1, wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // count)
    return [
        Slot(f"CPU {number} of {count}", {"OMP_NUM_THREADS": str(threads)})
        for number in range(1, count + 1)
    ]


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as CUDA names them: those of `CUDA_VISIBLE_DEVICES`, else all."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        # CUDA hides an impossible one and all that follow it.
        return list(takewhile(lambda gpu: gpu not in ("", "-1"), map(str.strip, said.split(","))))
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


@contextmanager
def hold_slot(
    slots: list[Slot], who: str, stopped: Callable[[], bool], on_wait: Callable[[str], None]
) -> Iterator[tuple[Slot, int]]:
    """Wait for a free slot and hold it; gives it, and the descriptor to hand to the child.

    Args:
        slots: of this machine.
        who: noted in the lock file.
        stopped: asked while waiting.
        on_wait: called once, with words, if there is no free slot.

    Raises:
        StoppedError: the run is ending.
    """
    locks = [(slot, Lock(_lock_file(slot))) for slot in slots]
    told = False
    while True:
        taken = next(((slot, lock) for slot, lock in locks if lock.take(who)), None)
        if taken:
            break
        if stopped():
            raise StoppedError("the run ended while this stage waited for a slot")
        if not told:
            on_wait(f"waiting for one of {len(slots)} slots: {', '.join(s.name for s in slots)}")
            told = True
        time.sleep(_LOOK_EVERY_S)
    slot, lock = taken
    try:
        yield slot, lock.fd
    finally:
        lock.release()


def _lock_file(slot: Slot) -> Path:
    # A GPU's name may be a UUID or a slice of one, and a slot's holds spaces.
    key = hashlib.sha256(slot.name.partition(" of ")[0].encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"fer-fusion-{os.getuid()}" / f"slot-{key}.lock"

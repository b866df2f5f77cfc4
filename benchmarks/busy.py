"""Speed on a quiet machine and beside busy cores: training steps and the fused model's networks.

`python benchmarks/busy.py [--rounds N]` runs each case in a fresh process, one round after the
other, with all threads, with one, and with as many as `threads: auto` takes. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from commands import timed
from rich.console import Console
from rich.table import Table

from fer_pipeline.threads import choose_threads

BACKBONE, SIZE, BATCH = "resnet50", 40, 32
MEASURED_S = 5.0
WORKS = ("train", "predict")
LOOP = "while True: pass"


def measure(work: str, threads: int) -> float:
    """Images per second of one process with so many threads."""
    import torch

    from fer_pipeline.models.backbones import build_backbone
    from fer_pipeline.models.inference import compute_logits

    torch.set_num_threads(threads)
    model = build_backbone(BACKBONE, "none").train(work == "train")
    batch = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    images = torch.zeros(BATCH, 48, 48, dtype=torch.uint8)
    labels = torch.zeros(BATCH, dtype=torch.long)

    def step() -> None:
        if work == "predict":
            compute_logits(model, images, SIZE, SIZE, BATCH)
            return
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch), labels)
        loss.backward()  # type: ignore[no-untyped-call]

    step()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < MEASURED_S:
        step()
        done += BATCH
    return done / (time.perf_counter() - started)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def speed_of(work: str, threads: int) -> float:
    command = [sys.executable, __file__, "--work", work, "--threads", str(threads)]
    return float(timed(command)[1])


def compare(rounds: int) -> dict[str, float]:
    """Median images per second, by work, number of busy cores and threads."""
    cores = len(os.sched_getaffinity(0))
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        for work in WORKS:
            for busy in (0, 1):
                with busy_cores(busy):
                    cases = {"all": cores, "one": 1, "auto": choose_threads()}
                    for name, threads in cases.items():
                        key = f"{work}, {busy} busy, {name}"
                        seen.setdefault(key, []).append(speed_of(work, threads))
    return {key: round(statistics.median(speeds), 1) for key, speeds in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        print(measure(chosen.work, chosen.threads))
        return
    found = compare(chosen.rounds)
    table = Table("work", "busy cores", "all threads", "one", "auto", title="images/s")
    for work in WORKS:
        for busy in (0, 1):
            speeds = (found[f"{work}, {busy} busy, {name}"] for name in ("all", "one", "auto"))
            table.add_row(work, str(busy), *map(str, speeds))
    Console().print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

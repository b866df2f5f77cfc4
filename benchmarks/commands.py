"""What benchmarks of whole commands share. One that fails ends the benchmark, and says why."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_SHOWN_LINES = 30


def timed(
    command: Sequence[str], folder: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[float, str]:
    """Run a command with more variables than this process has.

    Returns:
        Wall-clock seconds, and what it printed to stdout.

    Raises:
        SystemExit: it failed or could not start.
    """
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise SystemExit(f"{shlex.join(command)} could not start: {error}") from None
    if done.returncode:
        raise SystemExit(failure(command, done.returncode, done.stdout, done.stderr))
    return time.perf_counter() - started, done.stdout


def failure(command: Sequence[str], status: int | None, *outputs: str) -> str:
    """Which command failed, how (None: it did not end), and the last lines of its outputs."""
    how = "is not ready" if status is None else f"ended with status {status}"
    ends = ["\n".join(output.splitlines()[-_SHOWN_LINES:]) for output in outputs]
    return "\n".join([f"{shlex.join(command)} {how}:", *filter(None, ends)])


def measure_and_print(
    doc: str, measure: Callable[[Path, int, int], dict[str, float]], seconds: int
) -> None:
    """The whole of a benchmark of stages that sleep: options, a temporary folder, table and JSON.

    Args:
        doc: the benchmark's docstring, whose first line describes it.
        measure: takes the folder, the seconds that each stage sleeps, and the repeats.
        seconds: what each stage sleeps unless the command line says otherwise.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=seconds, help="that each stage sleeps")
    parser.add_argument("--repeats", type=int, default=3, help="runs behind each median")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.seconds, arguments.repeats)
    for name, value in figures.items():
        print(f"{name:24} {value:8.2f}")
    print(json.dumps(figures))


def medians_of(rounds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each kind of run, in seconds, as `KIND_s`."""
    return {f"{name}_s": round(statistics.median(all_), 2) for name, all_ in rounds.items()}

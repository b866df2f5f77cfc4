"""The commands that benchmarks run: one that fails ends the benchmark, and says why."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
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

"""How long a newcomer waits: set-up, the whole sample run, and a run with nothing to do.

Clones the project (what is committed) into a temporary folder and times, as whole processes:

    setup     `make setup`: virtual environment, locked dependencies, bytecode
    repro     `dvc repro`: every stage on the synthetic sample
    noop      `dvc repro` again, median of several
    imports   starting a stage with compiled bytecode, and from source, in pairs

Run it with `python benchmarks/pipeline.py`. The last line is one JSON object of the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from commands import timed

ROOT = Path(__file__).resolve().parents[1]
REPRO = ("dvc", "repro")
STAGE = ("python", "-m", "fer_pipeline.stages", "--help")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs behind each median")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder) / "clone", repeats)
    for name, value in figures.items():
        print(f"{name:16} {value:8.2f}")
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def measure(clone: Path, repeats: int) -> dict[str, float]:
    """Seconds per step, the number of stages in the second run, and the import speed-up."""
    # Bytecode is never written, so that a run from source stays one.
    path = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    no_bytecode = env | {"PYTHONPYCACHEPREFIX": str(clone / "none")}
    timed(("git", "clone", "--quiet", str(ROOT), str(clone)))
    setup_s, _ = timed(("make", "setup"), clone, env)
    repro_s, _ = timed(REPRO, clone, env)
    again = [timed(REPRO, clone, env) for _ in range(repeats)]
    pairs = [
        (timed(STAGE, clone, env)[0], timed(STAGE, clone, no_bytecode)[0]) for _ in range(repeats)
    ]
    return {
        "setup_s": setup_s,
        "repro_s": repro_s,
        "noop_s": statistics.median(seconds for seconds, _ in again),
        "noop_stages": sum(output.count("Running stage") for _, output in again),
        "start_s": statistics.median(compiled for compiled, _ in pairs),
        "bytecode_speedup": statistics.median(source / compiled for compiled, source in pairs),
    }


if __name__ == "__main__":
    main()

"""A process of its own: load a version as a server would, and score images.

It is run by its path and imports nothing of the project: the code that scores is the version's.

Usage: python scoring.py VERSION FOLDER, the folder of a version's files, and one in which it reads
    images.npy    (N, 48, 48) uint8
and writes
    logits.npy    (N, 7)
"""

import os
import sys
import threading
from pathlib import Path

import mlflow
import numpy as np

SLICE = 256
"""How many images are scored at once: a version refuses more than its server would take."""


def main(version: str, folder: Path) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    # An editable install of the project would supply the modules that the version lacks.
    sys.meta_path[:] = [
        one for one in sys.meta_path if "editable" not in getattr(one, "__module__", "")
    ]
    model = mlflow.pyfunc.load_model(version, suppress_warnings=True)
    images = np.load(folder / "images.npy", allow_pickle=False)
    slices = [images[start : start + SLICE] for start in range(0, len(images), SLICE)]
    logits = [model.predict(some, params={"output": "logits"}) for some in slices]
    scored = np.concatenate([np.asarray(some, np.float32) for some in logits])
    np.save(folder / "logits.npy", scored, allow_pickle=False)


def end_with_parent() -> None:
    """Wait until whoever started this process ends: standard input closes with it."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""A process of its own: fetch a version, compare its files with what was registered, score images.

It is run by its path and imports nothing of the project: the code that scores is the version's.

Usage: python scoring.py FOLDER, in which it reads
    request.json  `uri` of the version, and `sha256`: what each file of its bundle must hash to
    images.npz    `images`
and writes one of
    logits.npy    (N, 7)
    error.txt     why it could not be done
Exit status: 0 scored, 1 `error.txt` says why not.
"""

import hashlib
import json
import os
import sys
import threading
from pathlib import Path

import mlflow
import numpy as np

SLICE = 256
"""How many images are scored at once: a version refuses more than its server would take."""


def main(folder: Path) -> int:
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        np.save(folder / "logits.npy", score(folder), allow_pickle=False)
    except Exception as error:  # whatever it is, it is why this version does not serve
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        text = " ".join(f"{kind}{error}".split())
        (folder / "error.txt").write_text(text, encoding="utf-8")
        return 1
    return 0


def end_with_parent() -> None:
    """Wait until whoever started this process ends: standard input closes with it."""
    sys.stdin.read()
    os._exit(1)


def score(folder: Path) -> np.ndarray:
    """(N, 7) logits of the images by the version.

    Raises:
        ValueError: a file of the version is not what was registered.
    """
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    (folder / "version").mkdir()
    version = Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=request["uri"], dst_path=str(folder / "version")
        )
    )
    for name, digest in request["sha256"].items():
        require_digest(version / "artifacts" / "bundle" / name, digest)
    # An editable install of the project would supply the modules that the version lacks.
    sys.meta_path[:] = [
        one for one in sys.meta_path if "editable" not in getattr(one, "__module__", "")
    ]
    model = mlflow.pyfunc.load_model(str(version))
    with np.load(folder / "images.npz", allow_pickle=False) as arrays:
        images = arrays["images"]
    slices = [images[start : start + SLICE] for start in range(0, len(images), SLICE)]
    logits = [model.predict(some, params={"output": "logits"}) for some in slices]
    return np.concatenate([np.asarray(some, np.float32) for some in logits])


def require_digest(path: Path, digest: str) -> None:
    if not path.is_file():
        raise ValueError(f"its {path.name} is missing")
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
            raise ValueError(
                f"its {path.name} is not what was registered (another sha256): it is damaged"
            )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

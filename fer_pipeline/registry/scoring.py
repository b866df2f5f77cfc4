"""A process of its own: fetch a version, compare its files with what was registered, score images.

It is run by its path and imports nothing of the project: the code that scores is the version's.

Usage: python scoring.py REQUEST.json, with
    uri       of the version
    sha256    what each file of its bundle must hash to
    images    .npz with `images`
    folder    an empty one to fetch into
    logits    .npy to write, (N, 7)
    fault     text to write instead, if it can't be done
Exit status: 0 scored, 1 `fault` says why not.
"""

import hashlib
import json
import sys
from pathlib import Path

import mlflow
import numpy as np

SLICE = 256
"""Images at once: a version refuses more than its server would take in one request."""


def main(request: dict) -> int:  # type: ignore[type-arg]
    try:
        folder = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=request["uri"], dst_path=request["folder"]
            )
        )
        fault = _fault(folder / "artifacts" / "bundle", request["sha256"])
        if not fault:
            model = mlflow.pyfunc.load_model(str(folder))
            with np.load(request["images"], allow_pickle=False) as arrays:
                images = arrays["images"]
            logits = [
                np.asarray(
                    model.predict(images[start : start + SLICE], params={"output": "logits"}),
                    np.float32,
                )
                for start in range(0, len(images), SLICE)
            ]
            np.save(request["logits"], np.concatenate(logits), allow_pickle=False)
            return 0
    except Exception as error:  # whatever it is, it is why this version does not serve
        fault = f"{type(error).__name__}: {error}"
    Path(request["fault"]).write_text(" ".join(fault.split()), encoding="utf-8")
    return 1


def _fault(bundle: Path, digests: dict[str, str]) -> str:
    for name, digest in digests.items():
        path = bundle / name
        if not path.is_file():
            return f"its {name} is missing"
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                return f"its {name} is not what was registered (another sha256): it is damaged"
    return ""


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

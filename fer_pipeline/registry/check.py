"""The check before an alias moves: does the version score as the one that was measured?

A fresh process loads it, as a server would, and scores 16 images whose logits are on record.
The images are test images, where the prepared test set is here and is the one on record; a
registry keeps no pictures of people, so elsewhere the check falls back on the drawn faces that
the record holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.arrays import Float32Array, UInt8Array
from fer_pipeline.errors import RegistryError, hide_password
from fer_pipeline.registry.fetch import RECORD, fetch_version, scratch_folder
from fer_pipeline.registry.record import images_to_check, load_record
from fer_pipeline.registry.tracking import storage_errors
from fer_pipeline.serving.bundle import PRECISION_VARIABLE

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking

_SCRIPT = Path(__file__).with_name("scoring.py")

TOLERANCE = 1e-4
"""The largest difference of a logit from the one on record that passes."""


def check_version(tracking: Tracking, name: str, number: str) -> str:
    """Score a version in a fresh process and compare with its record.

    Returns:
        One line on what was compared.

    Raises:
        RegistryError: the version can't be fetched or loaded, or scores otherwise.
    """
    called = f"{name} version {number}"
    with fetch_version(tracking, name, number) as version:
        with storage_errors(f"the record of {called} can't be read"):
            record = load_record(version / RECORD)
        images, expected, kind = images_to_check(record)
        found = _score(version, images, called)
    largest = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not largest <= TOLERANCE:  # NaN is no agreement either
        raise RegistryError(
            f"{called} fails its check: a logit of {len(images)} {kind} differs "
            f"by {largest:.2g} from the one on record, more than {TOLERANCE:g}: no alias was moved"
        )
    return f"{len(images)} {kind} score as on record, within {largest:.1g}"


def score_version(tracking: Tracking, name: str, number: str, images: UInt8Array) -> Float32Array:
    """(N, 7) fused logits of (N, 48, 48) images by a version, fetched and run by a new process.

    Raises:
        RegistryError: it can't be fetched, is not what was registered, or can't be loaded.
    """
    with fetch_version(tracking, name, number) as version:
        return _score(version, images, f"{name} version {number}")


def _score(version: Path, images: UInt8Array, called: str) -> Float32Array:
    # It runs the version's own code, and loads no pickle.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PYTHONDONTWRITEBYTECODE": "1",  # what is fetched may lie in the store itself
        PRECISION_VARIABLE: "fp32",  # as the record was computed
    }
    with scratch_folder() as here:
        np.save(here / "images.npy", images, allow_pickle=False)
        with subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT), str(version), str(here)],
            env=environment,
            stdin=subprocess.PIPE,  # it closes with this process, and the other sees that
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr
            lines = process.stderr.read().strip().splitlines()
        if process.returncode != 0:
            why = hide_password(lines[-1] if lines else "its process ended without a message")
            raise RegistryError(f"{called} fails its check: {why[:300]}: no alias was moved")
        return np.asarray(np.load(here / "logits.npy", allow_pickle=False))

"""The check before an alias moves: does the version score as the one that was measured?

A fresh process fetches it, as a server would, and scores 64 images whose logits are on record.
The images are test images, where the prepared test set is here and is the one on record; a
registry keeps no pictures of people, so elsewhere the check falls back on the drawn faces that
the record holds.

The record lies beside the bundle. It has the fused logits of the test images with their labels and
groups, so that two versions can be compared image by image without the images, and synthetic faces
with their logits. The test images stay in the prepared data, and are known by their digest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.arrays import BoolArray, Float32Array, Int64Array, UInt8Array
from fer_pipeline.data.faces import Split, load_split, split_sha256
from fer_pipeline.errors import DataError, RegistryError, hide_password, one_line
from fer_pipeline.paths import TEST
from fer_pipeline.provenance import file_sha256
from fer_pipeline.registry.scratch import scratch_folder
from fer_pipeline.registry.tracking import open_storage
from fer_pipeline.serving.bundle import bundle_files
from fer_pipeline.serving.precision import PRECISION_VARIABLE

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking

_SCRIPT = Path(__file__).with_name("scoring.py")
_RECORD = "record.npz"

IMAGES = 64
TOLERANCE = 1e-4
"""The largest difference of a logit from the one on record that passes."""

FOLDER = "record"
"""Name of the folder with the record of a version."""

FILES_TAG = "fer.files"
"""Tag of a version: size in bytes and sha256 of each file of its bundle, as JSON."""


@dataclass(frozen=True)
class Record:
    """The measurements that a version is compared and checked by.

    Attributes:
        logits: (N, 7) float32 fused logits of the test images, before temperature.
        labels, groups: (N,) of the same images.
        test_sha256: of the test images and their labels, as `metrics/evaluation.json` has it.
        drawn: (D, 48, 48) uint8 synthetic faces.
        drawn_logits: (D, 7) float32 fused logits of them.
        brightness, contrast: test images per bin, as `data.profile` counts them; a record of
            an earlier release has neither.
    """

    logits: Float32Array
    labels: Int64Array
    groups: Int64Array
    test_sha256: str
    drawn: UInt8Array
    drawn_logits: Float32Array
    brightness: Int64Array | None = None
    contrast: Int64Array | None = None

    @property
    def hits(self) -> BoolArray:
        """(N,) true where the fused model is right."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels)


def write_record(record: Record, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: value for key, value in asdict(record).items() if value is not None}
    np.savez(folder / _RECORD, allow_pickle=False, **arrays)


def read_record(tracking: Tracking, name: str, number: str) -> Record:
    """Fetch the record of a version.

    Raises:
        RegistryError: it is missing or damaged, or the artifact store does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            storage = open_storage(tracking, name, number)
            path: str = storage.download_artifacts(f"artifacts/{FOLDER}", folder)  # type: ignore[no-untyped-call]
            return load_record(Path(path))
        except Exception as error:  # what a store's own client raises, or numpy of torn files
            raise RegistryError(
                f"the record of {name} version {number} can't be read ({one_line(error)}): see "
                "that the artifact store runs; if it is lost, delete the version in MLflow and "
                "run 'dvc repro --force --single-item register'"
            ) from error


def load_record(folder: Path) -> Record:
    """Read what `write_record` wrote, now or in version 0.1, which made two files."""
    if (folder / "test.npz").exists():
        with np.load(folder / "test.npz", allow_pickle=False) as found:
            arrays = {**found, "test_sha256": found["sha256"]}
        del arrays["sha256"]
        with np.load(folder / "drawn.npz", allow_pickle=False) as found:
            arrays |= {"drawn": found["images"], "drawn_logits": found["logits"]}
    else:
        with np.load(folder / _RECORD, allow_pickle=False) as found:
            arrays = {**found}
    return Record(**{**arrays, "test_sha256": str(arrays["test_sha256"])})


def check_version(tracking: Tracking, name: str, number: str) -> str:
    """Score a version in a fresh process and compare with its record.

    Returns:
        One line on what was compared.

    Raises:
        RegistryError: the version can't be fetched or loaded, or scores otherwise.
    """
    record = read_record(tracking, name, number)
    images, expected, kind = images_to_check(record)
    found = score_version(tracking, name, number, images)
    largest = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not largest <= TOLERANCE:  # NaN is no agreement either
        raise RegistryError(
            f"{name} version {number} fails its check: a logit of {len(images)} {kind} differs "
            f"by {largest:.2g} from the one on record, more than {TOLERANCE:g}: no alias was moved"
        )
    return f"{len(images)} {kind} score as on record, within {largest:.1g}"


def score_version(tracking: Tracking, name: str, number: str, images: UInt8Array) -> Float32Array:
    """(N, 7) fused logits of (N, 48, 48) images by a version, fetched and run by a new process.

    Raises:
        RegistryError: it can't be fetched, is not what was registered, or can't be loaded.
    """
    digests = {file: one[1] for file, one in files_of(tracking, name, number).items()}
    # It runs the version's own code, and loads no pickle.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "MLFLOW_TRACKING_URI": tracking.uri,
        "MLFLOW_REGISTRY_URI": tracking.uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        PRECISION_VARIABLE: "fp32",  # as the record was computed
    }
    with scratch_folder() as here:
        np.savez(here / "images.npz", allow_pickle=False, images=images)
        request = {"uri": f"models:/{name}/{number}", "sha256": digests}
        (here / "request.json").write_text(json.dumps(request), encoding="utf-8")
        done = _run_to_end([sys.executable, "-P", str(_SCRIPT), str(here)], environment)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["its process ended without a message"]
            error = here / "error.txt"
            why = error.read_text(encoding="utf-8") if error.exists() else lines[-1]
            raise RegistryError(
                f"{name} version {number} fails its check: {hide_password(why)[:300]}: "
                "no alias was moved"
            )
        return np.asarray(np.load(here / "logits.npy", allow_pickle=False))


def _run_to_end(
    command: list[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a process that ends with this one: then its standard input closes, and it sees that."""
    reading, writing = os.pipe()
    try:
        return subprocess.run(
            command, env=environment, stdin=reading, capture_output=True, text=True, check=False
        )
    finally:
        os.close(reading)
        os.close(writing)


def require_files(tracking: Tracking, name: str, number: str) -> None:
    """See that the files of a version are there, in their size, without fetching them.

    Raises:
        RegistryError: one is missing or has another size, or the store does not answer.
    """
    try:
        listed = open_storage(tracking, name, number).list_artifacts("artifacts/bundle")
    except Exception as error:  # what a store's own client raises
        raise RegistryError(
            f"the files of {name} version {number} can't be listed ({one_line(error)}): "
            "no alias was moved"
        ) from error
    sizes = {Path(file.path).name: file.file_size for file in listed}
    for file, (size, _) in files_of(tracking, name, number).items():
        if sizes.get(file) != size:
            raise RegistryError(
                f"{name} version {number} is not whole: its {file} has {sizes.get(file, 'no')} "
                f"bytes instead of {size}: no alias was moved; if it is lost, delete the version "
                "in MLflow and run 'dvc repro --force --single-item register'"
            )


def images_to_check(record: Record) -> tuple[UInt8Array, Float32Array, str]:
    """Images, the logits on record, and what to call them."""
    test = find_test_split(record)
    if test is None:
        return record.drawn[:IMAGES], record.drawn_logits[:IMAGES], "drawn faces"
    count = min(IMAGES, len(test))
    rows = np.linspace(0, len(test) - 1, count).round().astype(np.int64)  # all over the set
    return test.images[rows], record.logits[rows], "test images"


def find_test_split(record: Record) -> Split | None:
    """The prepared test set, where it is here and is the one on record."""
    try:
        test = load_split(TEST)
    except DataError:
        return None
    return test if split_sha256(test) == record.test_sha256 else None


def files_tag(bundle: Path) -> dict[str, str]:
    """The tag by which the files of a version are checked."""
    files = bundle_files(bundle)
    told = {path.name: (path.stat().st_size, file_sha256(path)) for path in files}
    return {FILES_TAG: json.dumps(told)}


def files_of(tracking: Tracking, name: str, number: str) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file of a version's bundle."""
    tags = tracking.client.get_model_version(name, number).tags
    if FILES_TAG in tags:
        return {
            file: (size, sha256) for file, (size, sha256) in json.loads(tags[FILES_TAG]).items()
        }
    names = [key.removeprefix("bytes.") for key in tags if key.startswith("bytes.")]
    return {file: (int(tags[f"bytes.{file}"]), tags[f"sha256.{file}"]) for file in names}  # 0.1

"""What a version is compared and checked by: the measurements that are stored beside its bundle.

They are the fused logits of the test images with their labels and groups, so that two versions can
be compared image by image without the images, and drawn faces with their logits. The test images
stay in the prepared data, and are known by their digest.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.arrays import BoolArray, Float32Array, FloatArray, Int64Array, UInt8Array
from fer_pipeline.data.faces import Split, load_split, split_sha256
from fer_pipeline.data.profile import count_greys
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.fusion.average import probabilities
from fer_pipeline.paths import TEST
from fer_pipeline.registry.fetch import RECORD, open_storage
from fer_pipeline.registry.tracking import storage_errors

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking
    from fer_pipeline.serving.predictor import FusedPredictor

_FILE = "record.npz"

IMAGES = 16
"""How many images a version is checked by."""


@dataclass(frozen=True)
class Record:
    """The measurements.

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

    def probabilities(self, temperature: float) -> FloatArray:
        """(N, 7) calibrated probabilities of the test images."""
        return probabilities(self.logits.astype(np.float64), temperature)


def make_record(logits: FloatArray, test: Split, predictor: FusedPredictor, seed: int) -> Record:
    """The record of a fused model, with its (N, 7) logits of the test images.

    The faces are drawn, so that no picture of a person ends up in a registry.
    """
    rng = np.random.default_rng(seed)
    drawn = np.stack([draw_face(row % NUM_EMOTIONS, rng) for row in range(IMAGES)])
    brightness, contrast = map(np.array, count_greys(test.images))
    return Record(
        logits=logits.astype(np.float32),
        labels=test.labels,
        groups=test.groups,
        test_sha256=split_sha256(test),
        drawn=drawn,
        drawn_logits=predictor.predict(drawn).logits,
        brightness=brightness,
        contrast=contrast,
    )


def write_record(record: Record, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: value for key, value in asdict(record).items() if value is not None}
    np.savez(folder / _FILE, allow_pickle=False, **arrays)


def load_record(folder: Path) -> Record:
    with np.load(folder / _FILE, allow_pickle=False) as found:
        return Record(**{**found, "test_sha256": str(found["test_sha256"])})


def read_record(tracking: Tracking, name: str, number: str) -> Record:
    """Fetch the record of a version.

    Raises:
        RegistryError: it is missing or damaged, or the artifact store does not answer.
    """
    storage = open_storage(tracking, name, number)
    with (
        tempfile.TemporaryDirectory() as folder,
        storage_errors(f"the record of {name} version {number} can't be read"),
    ):
        return load_record(Path(storage.download_artifacts(RECORD, folder)))  # type: ignore[no-untyped-call]


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

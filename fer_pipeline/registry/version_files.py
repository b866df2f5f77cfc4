"""The files of a version: where they lie, and the record of its measurements among them.

In the folder `record`, beside the bundle, `test.npz` has the fused logits of the test images with
their labels and groups, so that two versions can be compared image by image without the images.
`drawn.npz` has synthetic faces and their logits, so that a version can be checked where the test
images are not. No picture of a person is in it: those stay in the prepared data, and are known by
their digest.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from fer_pipeline.errors import RegistryError, one_line

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from fer_pipeline.registry.tracking import Tracking

FOLDER = "record"
"""Name of the folder with the record of a version."""

FILE_TAG = "sha256."
"""Start of the tags of a version that hold the sha256 of each file of its bundle."""

SIZE_TAG = "bytes."
"""Start of the tags of a version that hold the size in bytes of each file of its bundle."""


@dataclass(frozen=True)
class Record:
    """The measurements that a version is compared and checked by.

    Attributes:
        logits: (N, 7) float32 fused logits of the test images, before temperature.
        labels, groups: (N,) of the same images.
        test_sha256: of the test images and their labels, as `metrics/evaluation.json` has it.
        drawn: (D, 48, 48) uint8 synthetic faces.
        drawn_logits: (D, 7) float32 fused logits of them.
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    test_sha256: str
    drawn: npt.NDArray[np.uint8]
    drawn_logits: npt.NDArray[np.float32]

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """(N,) true where the fused model is right."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels)


def write_record(record: Record, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "test.npz",
        allow_pickle=False,
        logits=record.logits,
        labels=record.labels,
        groups=record.groups,
        sha256=np.array(record.test_sha256),
    )
    np.savez(
        folder / "drawn.npz", allow_pickle=False, images=record.drawn, logits=record.drawn_logits
    )


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
    """Read what `write_record` wrote."""
    with np.load(folder / "test.npz", allow_pickle=False) as test:
        logits, labels, groups = test["logits"], test["labels"], test["groups"]
        sha256 = str(test["sha256"])
    with np.load(folder / "drawn.npz", allow_pickle=False) as drawn:
        return Record(logits, labels, groups, sha256, drawn["images"], drawn["logits"])


def open_storage(tracking: Tracking, name: str, number: str) -> ArtifactRepository:
    """The files of a version, to be listed, fetched or deleted.

    MLflow's own functions for `models:/` addresses take the registry from a global setting; this
    one asks the store that it is given.
    """
    location = tracking.client.get_model_version_download_uri(name, number)
    return get_artifact_repository(location, tracking_uri=tracking.uri, registry_uri=tracking.uri)

"""`data/raw/faces.parquet`: the one form in which faces go on, with where they came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fer_pipeline.data.faces import SIDE, Faces
from fer_pipeline.files import reading

PIXELS = SIDE * SIDE

_SCHEMA = pa.schema([("emotion", pa.int8()), ("usage", pa.string()), ("pixels", pa.binary(PIXELS))])
_ORIGIN_KEY = b"fer.origin"


@dataclass(frozen=True)
class Origin:
    """Where an ingested set came from, and what was done to it on the way.

    Attributes:
        uri: of the source, as it was pinned.
        version: the server's name for it, or the sample's version, or empty.
        sha256: of the source's bytes, or empty for the built-in sample.
        synthetic: true if the faces were drawn by code.
        edition: what it was found to be.
        labels: `fer` or `ferplus_majority`.
        resized: faces that were not 48x48.
        unlabelled: rows without a label that were left out.
        dropped: faces left out because of their votes, by reason.
    """

    uri: str
    version: str
    sha256: str
    synthetic: bool
    edition: str
    labels: str
    resized: int = 0
    unlabelled: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def write_faces(faces: Faces, origin: Origin, path: Path) -> None:
    """Write emotion, usage, and pixels as 2,304 bytes; the same faces give the same bytes."""
    flat = faces.pixels.reshape(len(faces), PIXELS)
    columns = [
        pa.array(faces.emotion, pa.int8()),
        pa.array(faces.usage.tolist(), pa.string()),
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(PIXELS), len(faces), [None, pa.py_buffer(flat.tobytes())]
        ),
    ]
    schema = _SCHEMA.with_metadata({_ORIGIN_KEY: json.dumps(asdict(origin)).encode()})
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, compression="zstd")


def read_faces(path: Path) -> tuple[Faces, Origin]:
    """Read what `write_faces` wrote.

    Raises:
        DataError: the file is missing, not that, or an earlier version of the code wrote it.
    """
    with reading(path, "ingest"):
        table = pq.read_table(path)
        origin = Origin(**json.loads((table.schema.metadata or {})[_ORIGIN_KEY]))
        table = table.cast(_SCHEMA)
    pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), np.uint8)
    faces = Faces(
        pixels.reshape(-1, SIDE, SIDE),
        table["emotion"].to_numpy(),
        np.array(table["usage"].to_pylist(), np.str_),
    )
    return faces, origin

"""Editions of FER2013 as files, read into `Faces`: `fer2013.csv`, and parquet with encoded images.

Every reader raises `DataError` with the file, the row (counted from 1, without the header)
and the value seen. The pipeline's own `faces.parquet` is written and read here too.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from fer_pipeline.data.faces import SIDE, USAGES, Faces, UInt8Array
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError

PIXELS = SIDE * SIDE

IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on bytes that are no picture, or one too large to be a face."""

_FACES_SCHEMA = pa.schema(
    [("emotion", pa.int8()), ("usage", pa.string()), ("pixels", pa.binary(PIXELS))]
)


@dataclass(frozen=True)
class Origin:
    """Where an ingested set came from; travels inside `faces.parquet`.

    Attributes:
        uri: what `data.source` said.
        version: the sample's version, or empty for a file.
        sha256: of the source file, or empty for the built-in sample.
        pinned: true if the source was checked against its pin.
        synthetic: true if the faces were drawn by code.
    """

    uri: str
    version: str
    sha256: str
    pinned: bool
    synthetic: bool


def read_csv(path: Path) -> Faces:
    """Read `fer2013.csv`: columns emotion, pixels (2,304 numbers with spaces) and Usage.

    Raises:
        DataError: no such csv, a missing column, or a row that is no labelled face.
    """
    text_columns = {"emotion": pa.string(), "pixels": pa.string(), "Usage": pa.string()}
    try:
        table = pa.csv.read_csv(
            path, convert_options=pa.csv.ConvertOptions(column_types=text_columns)
        )
        names = table.column_names  # decoded only here
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a csv file: {_one_line(error)}") from error
    _require_columns(names, tuple(text_columns), path)
    emotion = _emotions(table["emotion"].to_pylist(), path)
    usage = _usages(table["Usage"].to_pylist(), path)
    pixels = np.empty((table.num_rows, SIDE, SIDE), np.uint8)
    for row, text in enumerate(table["pixels"]):
        pixels[row] = _parse_pixels(text.as_py(), path, row)
    return _require_faces(Faces(pixels, emotion, usage), path)


def read_parquet(path: Path) -> Faces:
    """Read a parquet file with the columns emotion, Usage and image (48x48 PNG or JPEG bytes).

    Raises:
        DataError: no such parquet, a missing column, or a row that is no labelled face.
    """
    table = _open_parquet(path)
    _require_columns(table.column_names, ("emotion", "Usage", "image"), path)
    if not pa.types.is_binary(table.schema.field("image").type):
        kind = table.schema.field("image").type
        raise DataError(f"{path}: column 'image' holds {kind}, not encoded images (binary)")
    emotion = _emotions(table["emotion"].to_pylist(), path)
    usage = _usages(table["Usage"].to_pylist(), path)
    pixels = np.empty((table.num_rows, SIDE, SIDE), np.uint8)
    for row, encoded in enumerate(table["image"]):
        pixels[row] = _decode_image(encoded.as_py(), path, row)
    return _require_faces(Faces(pixels, emotion, usage), path)


def write_faces(faces: Faces, origin: Origin, path: Path) -> None:
    """Write the pipeline's own `faces.parquet`: emotion, usage, and pixels as 2,304 bytes."""
    flat = faces.pixels.reshape(len(faces), PIXELS)
    columns = [
        pa.array(faces.emotion, pa.int8()),
        pa.array(faces.usage.tolist(), pa.string()),
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(PIXELS), len(faces), [None, pa.py_buffer(flat.tobytes())]
        ),
    ]
    metadata = {f"fer.{key}": str(value) for key, value in asdict(origin).items()}
    schema = _FACES_SCHEMA.with_metadata(metadata)
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, compression="zstd")


def read_faces(path: Path) -> tuple[Faces, Origin]:
    """Read what `write_faces` wrote.

    Raises:
        DataError: the file is not that.
    """
    table = _open_parquet(path)
    if not table.schema.equals(_FACES_SCHEMA):
        raise DataError(f"{path} is no ingested set of faces: run 'dvc repro --force ingest'")
    stored = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), np.uint8)
    faces = Faces(
        pixels.reshape(-1, SIDE, SIDE),
        table["emotion"].to_numpy(),
        np.array(table["usage"].to_pylist(), np.str_),
    )
    if "fer.uri" not in stored:
        raise DataError(f"{path} is no ingested set of faces: run 'dvc repro --force ingest'")
    origin = Origin(
        stored["fer.uri"],
        stored["fer.version"],
        stored["fer.sha256"],
        stored["fer.pinned"] == "True",
        stored["fer.synthetic"] == "True",
    )
    return faces, origin


def _open_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole parquet file: {_one_line(error)}") from error


def _require_columns(present: list[str], needed: tuple[str, ...], path: Path) -> None:
    twice = [name for name in needed if present.count(name) > 1]
    if twice:
        raise DataError(f"{path} has {present.count(twice[0])} columns named '{twice[0]}'")
    missing = [name for name in needed if name not in present]
    if missing:
        seen = ", ".join(repr(name[:40]) for name in present[:6])
        raise DataError(
            f"{path} has no column '{missing[0]}' (it has {seen}): "
            f"is it FER2013 with {', '.join(needed)}?"
        )


def _require_faces(faces: Faces, path: Path) -> Faces:
    """Refuse an edition that has no row in one of the official splits."""
    for usage in USAGES:
        if not (faces.usage == usage).any():
            raise DataError(f"{path} has no row with Usage '{usage}': is the file truncated?")
    return faces


def _emotions(values: list[object], path: Path) -> npt.NDArray[np.int8]:
    codes = {str(code): code for code in range(NUM_EMOTIONS)}
    numbers = np.empty(len(values), np.int8)
    for row, value in enumerate(values):
        code = codes.get(str(value))
        if code is None:
            raise DataError(f"{path}, row {row + 1}: emotion is {value!r}, not 0 to 6")
        numbers[row] = code
    return numbers


def _usages(values: list[object], path: Path) -> npt.NDArray[np.str_]:
    for row, value in enumerate(values):
        if value not in USAGES:
            raise DataError(
                f"{path}, row {row + 1}: Usage is {value!r}, not one of {', '.join(USAGES)}"
            )
    return np.array(values, np.str_)


def _parse_pixels(text: str | None, path: Path, row: int) -> UInt8Array:
    try:
        values = np.array((text or "").split(), np.int64)
    except (ValueError, OverflowError):
        words = (text or "").split()
        wrong = next(word for word in words if not (word.isdecimal() and len(word) <= 3))
        raise DataError(f"{path}, row {row + 1}: a pixel is {wrong[:40]!r}, not 0 to 255") from None
    if len(values) != PIXELS:
        raise DataError(f"{path}, row {row + 1}: {len(values)} pixels, not {PIXELS}")
    if values.min() < 0 or values.max() > 255:
        wrong = values[(values < 0) | (values > 255)][0]
        raise DataError(f"{path}, row {row + 1}: a pixel is {wrong}, not 0 to 255")
    return values.astype(np.uint8).reshape(SIDE, SIDE)


def _decode_image(encoded: bytes | None, path: Path, row: int) -> UInt8Array:
    try:
        with Image.open(io.BytesIO(encoded or b"")) as image:
            if image.size != (SIDE, SIDE):
                raise DataError(
                    f"{path}, row {row + 1}: image is {image.width}x{image.height}, "
                    f"not {SIDE}x{SIDE}"
                )
            return np.asarray(image.convert("L"))
    except IMAGE_ERRORS as error:
        raise DataError(
            f"{path}, row {row + 1}: image can't be read: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

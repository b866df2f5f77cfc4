"""What people name when they ask for expressions: pictures, folders, patterns, tables, archives.

A source is looked at before any face is read, so that whatever is missing or of no known kind is
said before the work. A file called like a picture is one, whatever is in it; any other is told by
its content. A folder or an archive gives its pictures; where it has none, its tables.
"""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa

from fer_pipeline.data.faces import SIDE
from fer_pipeline.data.sources.containers import Container, open_container
from fer_pipeline.data.sources.picture_files import SUFFIXES
from fer_pipeline.data.sources.table_files import MAX_FILE_BYTES, open_images, read_header
from fer_pipeline.data.sources.tables import IMAGES
from fer_pipeline.errors import DataError

Kind = Literal["files", "members", "csv", "parquet", "array"]

STDIN = "-"
"""The word for the paths on standard input, one a line."""

_PICTURES = SUFFIXES | {".gif"}
_ARRAYS = {*IMAGES, "images", "faces"}
"""What an array of faces is called among others in an `.npz`."""

_ARRAY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Source:
    """Faces that are read in one way.

    Attributes:
        kind: `files` are pictures on disk, `members` pictures in an archive; the others are tables.
        path: of the archive, the table, or the folder that has it.
        names: of pictures on disk their paths; else of the files in `path`, in reading order.
        rows: of a table; None where only reading tells.
    """

    kind: Kind
    path: Path
    names: list[str]
    rows: int | None = None

    @property
    def faces(self) -> int | None:
        """How many there are; None where only reading tells."""
        return len(self.names) if self.kind in ("files", "members") else self.rows


def find_sources(words: Sequence[str]) -> list[Source]:
    """What these paths and patterns are, in their order.

    Args:
        words: paths or glob patterns; `-` stands for the lines of standard input.

    Raises:
        DataError: one does not exist, is empty, or holds no face of a known form.
    """
    found: list[Source] = []
    for word in _lines_for_stdin(words):
        for path in _expand(word):
            for source in _look_at(path):
                if found and found[-1].kind == source.kind == "files":  # a shell gives thousands
                    found[-1].names.extend(source.names)
                else:
                    found.append(source)
    for source in found:
        if source.faces == 0:
            raise DataError(f"{source.path} holds no face: it has no row")
    return found


def count_faces(sources: Sequence[Source]) -> int | None:
    """How many faces there are in all; None where only reading tells."""
    known = [source.faces for source in sources if source.faces is not None]
    return sum(known) if len(known) == len(sources) else None


def _lines_for_stdin(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word != STDIN:
            yield word
            continue
        lines = [line for line in sys.stdin.buffer.read().splitlines() if line.strip()]
        if not lines:
            raise DataError("standard input names no picture: give one path a line")
        yield from map(os.fsdecode, lines)


def _expand(word: str) -> list[Path]:
    if Path(word).exists():
        return [Path(word)]
    found = [Path(name) for name in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207
    if "**" in word:  # which gives what lies in its folders, too
        found = [path for path in found if path.is_file()]
    if not found:
        raise DataError(
            f"{word} is missing: give pictures, folders, a csv, parquet, npz, zip or tar of faces, "
            f"or '{STDIN}' to read paths from standard input"
        )
    return found


def _look_at(path: Path) -> list[Source]:
    """The sources that are a file, folder or archive."""
    if path.suffix.lower() in _PICTURES and not path.is_dir():
        return [Source("files", path, [str(path)])]
    with open_container(path) as container:
        names = [name for name in container.names if _is_picture(name)]
        if names and path.is_dir():
            return [Source("files", path, [str(path / name) for name in names])]
        if names:
            names.sort(key=lambda name: container.offsets.get(name, 0))
            return [Source("members", path, names)]
        tables = [found for name in container.names if (found := _table(container, name))]
        if not tables and container.joint is None:  # named by the user, so perhaps a picture
            return [Source("files", path, [str(path)])]
    if not tables:
        raise DataError(f"{path} holds no face: give pictures, or a csv, parquet or npz of them")
    return tables


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _PICTURES


def _table(container: Container, name: str) -> Source | None:
    """A file with many faces, if it is one; looked at as far as its columns and their length."""
    with container.open(name) as stream:
        start = stream.readline(1 << 16)
    stem, suffix = PurePosixPath(name).stem.lower(), PurePosixPath(name).suffix.lower()
    alone = len(container.names) == 1
    if start.startswith(b"PAR1"):
        with (
            open_table(container, name) as stream,
            open_images(stream, container.where(name)) as (file, _),
        ):
            return Source("parquet", container.path, [name], file.metadata.num_rows)
    if start.startswith(_ARRAY_MAGIC) and (alone or stem in _ARRAYS):
        with container.open(name) as stream:
            return Source("array", container.path, [name], read_length(stream, container, name))
    if b"pixel" in start.lower() or (suffix == ".csv" and alone):
        with container.open(name) as stream:
            header = read_header(stream, container.where(name))
        if header.images:
            return Source("csv", container.path, [name])
        raise DataError(f"{container.where(name)} has no column 'pixels': is it a csv of faces?")
    return None


@contextmanager
def open_table(container: Container, name: str) -> Iterator[BinaryIO | pa.BufferReader]:
    """A file's bytes at any place: in memory, where it is packed."""
    with container.open(name) as stream:
        if type(stream) is io.BufferedReader:
            yield stream
        else:
            yield pa.BufferReader(container.read(name, MAX_FILE_BYTES))


_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[np.generic]]]]
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_length(stream: BinaryIO, container: Container, name: str) -> int:
    """The number of faces in a NumPy array, whose stream then stands at the first.

    Raises:
        DataError: the array is not (N, 48, 48) uint8.
    """
    where = container.where(name)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = _HEADERS[version](stream)
    except (ValueError, KeyError) as error:
        raise DataError(f"{where} is no array that NumPy wrote: {error}") from error
    if len(shape) != 3 or shape[1:] != (SIDE, SIDE) or dtype != np.uint8 or fortran:
        said = " x ".join(map(str, shape))
        raise DataError(f"{where} is {said} {dtype}: faces are N x {SIDE} x {SIDE} uint8")
    return shape[0]

"""Faces to predict, some at a time, whatever they come in; processes decode while others compute.

Order is kept, and memory does not grow with the number of faces: no more than a few chunks wait.
"""

from __future__ import annotations

import os
import signal
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import pyarrow as pa

from fer_pipeline.data.faces import SIDE, Int64Array, UInt8Array
from fer_pipeline.data.pictures import MAX_PICTURE_BYTES, Size, decode_picture, read_picture
from fer_pipeline.data.sources.containers import Container, open_container
from fer_pipeline.data.sources.table_files import open_images, read_blocks, read_header
from fer_pipeline.data.sources.tables import Columns, read_pixels
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError, one_line
from fer_pipeline.serving.sources import Source, count_faces, open_table, read_length

CHUNK = 128
"""Faces that are handed on together, unless another number is asked for."""

MAX_WORKERS = 8
_WAITING_BYTES = 8 << 20
"""About so many bytes of encoded pictures go to a process together."""


@dataclass(frozen=True)
class Chunk:
    """Some faces, in the order of their source.

    Attributes:
        names: (N,) what people call each: its path, or file and row.
        images: (K, 48, 48) uint8, of those that could be read.
        errors: (N,) why one could not be read; None where it could.
        sides: (K, 2) width and height of each image before it was brought to 48x48.
    """

    names: list[str]
    images: UInt8Array
    errors: list[str | None]
    sides: Int64Array


Job = Callable[[], list[Chunk]]
"""Work that another process can do."""


def read_sources(sources: Sequence[Source], size: int = CHUNK) -> Generator[Chunk, None, None]:
    """The faces of what `find_sources` found, `size` or fewer at a time.

    A picture or a row that can't be read is an error in its chunk, and reading goes on.

    Raises:
        DataError: a table or an archive is damaged, or has no row.
    """
    faces = count_faces(sources)
    jobs = (job for source in sources for job in _jobs(source, size))
    # A process takes a second to start.
    if faces is not None and faces <= size:
        return _in_this_process(jobs)
    return _in_processes(jobs, _count_workers())


def _count_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MAX_WORKERS, (cores or 1) // 2))


def _in_this_process(jobs: Iterable[Job]) -> Generator[Chunk, None, None]:
    for job in jobs:
        yield from job()


def _in_processes(jobs: Iterable[Job], workers: int) -> Generator[Chunk, None, None]:
    """In order, with no more than a few jobs waiting; ends its processes however it ends."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent)
    waiting: deque[Future[list[Chunk]]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads faces was killed, perhaps for want of memory: make --batch-size "
            "smaller"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when that is killed, which nothing else would tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _jobs(source: Source, size: int) -> Iterator[Job]:
    if source.kind == "files":
        for at in range(0, len(source.names), size):
            paths = source.names[at : at + size]
            yield partial(_read_pictures, paths, list(map(Path, paths)))
        return
    with open_container(source.path) as container:
        yield from _READERS[source.kind](container, source.names, size)


def _member_jobs(container: Container, names: list[str], size: int) -> Iterator[Job]:
    """An archive is read forwards, and by one process: the others decode."""
    some: list[str] = []
    contents: list[bytes | DataError] = []
    waiting = 0
    for name in names:
        some.append(container.where(name))
        try:
            content = container.read(name, MAX_PICTURE_BYTES)
            contents.append(content)
            waiting += len(content)
        except (DataError, zipfile.BadZipFile, zlib.error) as error:
            contents.append(DataError(one_line(error)))
        if len(some) == size or waiting > _WAITING_BYTES:
            yield partial(_read_pictures, some, contents)
            some, contents, waiting = [], [], 0
    if some:
        yield partial(_read_pictures, some, contents)


def _csv_jobs(container: Container, names: list[str], size: int) -> Iterator[Job]:
    (name,) = names
    where, batch = container.where(name), None
    with container.open(name) as stream:
        columns = replace(read_header(stream, where), labels=(), usage=None)
    for first_row, batch in read_blocks(container, name, columns):
        yield partial(_read_table, batch, columns, where, first_row, size)
    if batch is None:
        raise DataError(f"{where} has a header and no rows: is the file cut off?")


def _parquet_jobs(container: Container, names: list[str], size: int) -> Iterator[Job]:
    (name,) = names
    where, first_row = container.where(name), 1
    with open_table(container, name) as stream, open_images(stream, where) as (file, columns):
        for batch in file.iter_batches(size, columns=list(columns.images)):
            yield partial(_read_table, batch, columns, where, first_row, size)
            first_row += batch.num_rows


def _array_jobs(container: Container, names: list[str], size: int) -> Iterator[Job]:
    (name,) = names
    with container.open(name) as stream:
        rows = read_length(stream, container, name)
        for first in range(0, rows, size):
            wanted = min(size, rows - first) * PIXELS
            greys = stream.read(wanted)
            if len(greys) < wanted:
                raise DataError(f"{container.where(name)} is cut off: fetch it again")
            yield partial(_take_greys, greys, str(container.path), first + 1)


_READERS: dict[str, Callable[[Container, list[str], int], Iterator[Job]]] = {
    "members": _member_jobs,
    "csv": _csv_jobs,
    "parquet": _parquet_jobs,
    "array": _array_jobs,
}


def _read_pictures(names: list[str], contents: Sequence[Path | bytes | DataError]) -> list[Chunk]:
    def read(place: int) -> tuple[UInt8Array, Size]:
        content = contents[place]
        if isinstance(content, DataError):
            raise content
        if isinstance(content, Path):
            return read_picture(content)
        return decode_picture(content, names[place])

    return [_gather(names, read)]


def _read_table(
    batch: pa.RecordBatch, columns: Columns, where: str, first_row: int, size: int
) -> list[Chunk]:
    starts = range(0, batch.num_rows, size)
    return [_read_rows(batch.slice(at, size), columns, where, first_row + at) for at in starts]


def _read_rows(batch: pa.RecordBatch, columns: Columns, where: str, first_row: int) -> Chunk:
    rows = pa.Table.from_batches([batch])
    names = _row_names(where, first_row, len(rows))
    read = partial(read_pixels, columns=columns, where=where, only_squares=False)
    try:
        images, sides = read(rows, first_row=first_row)
    except DataError:  # one by one, then, to keep the others

        def read_one(place: int) -> tuple[UInt8Array, Size]:
            image, side = read(rows.slice(place, 1), first_row=first_row + place)
            return image[0], (int(side[0, 0]), int(side[0, 1]))

        return _gather(names, read_one)
    return Chunk(list(map(_printable, names)), images, [None] * len(names), sides)


def _take_greys(greys: bytes, where: str, first_row: int) -> list[Chunk]:
    images = np.frombuffer(greys, np.uint8).reshape(-1, SIDE, SIDE)
    names = list(map(_printable, _row_names(where, first_row, len(images))))
    return [Chunk(names, images, [None] * len(images), np.full((len(images), 2), SIDE))]


def _row_names(where: str, first_row: int, rows: int) -> list[str]:
    return [f"{where}, row {first_row + place}" for place in range(rows)]


def _gather(names: list[str], read: Callable[[int], tuple[UInt8Array, Size]]) -> Chunk:
    """Read one after the other; what can't be read is an error."""
    images: list[UInt8Array] = []
    sides: list[Size] = []
    errors: list[str | None] = []
    for place, name in enumerate(names):
        try:
            image, side = read(place)
        except DataError as error:
            errors.append(_printable(str(error).removeprefix(f"{name}: ")))
            continue
        images.append(image)
        sides.append(side)
        errors.append(None)
    return Chunk(
        [_printable(name) for name in names],
        np.array(images, np.uint8).reshape(-1, SIDE, SIDE),
        errors,
        np.array(sides, np.int64).reshape(-1, 2),
    )


def _printable(text: str) -> str:
    """A file's name may hold bytes that are no UTF-8, which no table can hold."""
    return os.fsencode(text).decode(errors="replace")

"""What a fused model says of many faces, as rows, and the files that they are written to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.files import whole_file
from fer_pipeline.serving.inputs import Chunk

Chances = npt.NDArray[np.float32]
"""(K, 7) probabilities, in the order of `EMOTIONS`."""


def tabulate(chunk: Chunk, chances: Chances, singles: Mapping[str, Chances]) -> pa.RecordBatch:
    """A row for each face of a chunk, without figures where it could not be read.

    Args:
        chunk: N faces, of which K could be read.
        chances: of the K by the fused model.
        singles: of the K by each backbone that is asked for.

    Returns:
        Columns `image`, `expression`, one for each emotion, `BACKBONE.EMOTION`, and `error`.
    """
    readable = np.array([error is None for error in chunk.errors], np.bool_)
    places = pa.array(readable.cumsum() - 1, mask=~readable)  # of each row among the K
    expression = pa.array([EMOTIONS[code] for code in chances.argmax(axis=1)], pa.string())
    columns = {"image": pa.array(chunk.names), "expression": expression.take(places)}
    for prefix, figures in {
        "": chances,
        **{f"{name}.": one for name, one in singles.items()},
    }.items():
        for emotion, column in zip(EMOTIONS, figures.T, strict=True):
            columns[prefix + emotion] = pa.array(column, pa.float32()).take(places)
    columns["error"] = pa.array(chunk.errors, pa.string())
    return pa.record_batch(columns)


@contextmanager
def open_output(path: Path) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Give what writes rows to a file, which takes its name when all of them are there.

    Raises:
        DataError: the file has no known ending, or can't be written; said before the block runs.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise DataError(f"{path} has none of the endings {', '.join(_WRITERS)}: give it one")
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file in it")
    with whole_file(path) as partial, partial.open("wb") as stream:
        opened: list[Any] = []  # once the columns are known

        def write(rows: pa.RecordBatch) -> None:
            if not opened:
                opened.append(writer(stream, rows.schema))
            opened[0].write_batch(rows)

        yield write
        for one in opened:
            one.close()


class _JsonLines:
    """A JSON object on each line."""

    def __init__(self, stream: BinaryIO, _: pa.Schema) -> None:
        self._stream = stream

    def write_batch(self, rows: pa.RecordBatch) -> None:
        columns = [_shortest(rows[name]) for name in rows.schema.names]
        for row in pa.record_batch(columns, rows.schema.names).to_pylist():
            self._stream.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())

    def close(self) -> None:
        self._stream.flush()


def _shortest(column: pa.Array) -> pa.Array:
    """0.1 in 32 bits as 0.1, not as 0.10000000149011612."""
    if column.type != pa.float32():
        return column
    return pc.cast(pc.cast(column, pa.string()), pa.float64())


def _csv_writer(stream: BinaryIO, schema: pa.Schema) -> pyarrow.csv.CSVWriter:
    options = pyarrow.csv.WriteOptions(quoting_header="none")
    return pyarrow.csv.CSVWriter(stream, schema, write_options=options)


_WRITERS: dict[str, Callable[[BinaryIO, pa.Schema], Any]] = {
    ".csv": _csv_writer,
    ".parquet": pq.ParquetWriter,
    ".jsonl": _JsonLines,
}

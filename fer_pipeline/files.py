"""Files that are either whole or not there, and one line for each that can't be read or written."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fer_pipeline.errors import DataError, FerError, one_line

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space on its disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make its folder writable for you"),
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to it when the block ends without error.

    The temporary name is always the same, so what a killed process left is overwritten by
    the next. It keeps the suffix, because writers such as numpy's append a missing one.

    Raises:
        DataError: the file can't be written: a full disk, a folder that is read-only.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # or it would hide what went wrong
            partial.unlink(missing_ok=True)
        code = _system_error(error)
        if code is None or isinstance(error, FerError):  # which says itself what was wrong
            raise
        remedy = _REMEDIES.get(code, "look at its folder")
        raise DataError(
            f"{path} can't be written ({os.strerror(code)}): {remedy}, then run the same again"
        ) from error


@contextmanager
def reading(path: Path, stage: str) -> Iterator[None]:
    """Turn whatever a file that can't be read raises into one line that names the stage.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    try:
        yield
    except FerError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run 'dvc repro {stage}'") from None
    except Exception as error:  # a damaged file makes its reader stumble on anything
        # NumPy takes whatever is no archive for a pickle, and says how to load that.
        reason = "no archive of arrays" if "allow_pickle" in str(error) else one_line(error)
        raise DataError(
            f"{path} can't be read ({reason}): run 'dvc repro --force --single-item {stage}'"
        ) from error


@contextmanager
def read_arrays(path: Path, stage: str) -> Iterator[Mapping[str, Any]]:
    """Give the arrays of an `.npz` file that a stage has written; nothing in it is unpickled.

    Raises:
        DataError: the file is missing or damaged, or the block finds it to be something else.
    """
    # NumPy leaves a file open that it can't read, unless somebody else has opened it.
    with (
        reading(path, stage),
        path.open("rb") as stream,
        np.load(stream, allow_pickle=False) as arrays,
    ):
        yield arrays


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON with the keys in their given order; NaN is refused, it is no JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read the JSON object that a stage has written; NaN is refused.

    Raises:
        DataError: the file is missing, or no such object.
    """
    with reading(path, stage):
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        if not isinstance(content, dict):
            raise TypeError("no JSON object")
        return content


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows that all have the keys of the first, which become the header."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path, stage: str) -> list[dict[str, str]]:
    """The rows of a file with a header that a stage has written, by its column names.

    Raises:
        DataError: the file is missing, or some row has not a value for each column.
    """
    with reading(path, stage):
        text = path.read_bytes().decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True))
        if not text.endswith("\n") or not rows or any("" in row.values() for row in rows):
            raise ValueError("rows are cut or missing")
        return rows


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no figure")


def _system_error(error: BaseException | None) -> int | None:
    """The system's number for what went wrong in a write, or in what a writer did about it.

    Where a disk is full, zipfile fails once more as it closes the archive.
    """
    while error is not None:
        # Libraries in Rust, such as safetensors, say the number in their text alone.
        if said := re.search(r"\(os error (\d+)\)", str(error)):
            return int(said[1])
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__context__
    return None

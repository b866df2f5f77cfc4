"""Files from servers, fetched so that a broken connection or a killed process costs little.

A file is read in parts, several at a time, and written in order beside its target: the length of
that partial file is how far it got. Its name holds the version, so another one never goes on it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from fer_pipeline.data import s3, web
from fer_pipeline.data.upstream import BrokenConnectionError, Place, Upstream
from fer_pipeline.errors import DataError

PART_BYTES = 8 << 20
PARALLEL_PARTS = 4

PATIENCE_S = 60.0
"""How long a server may send nothing new before a download is given up."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there so far, and how many there will be, or None."""


def place_of(uri: str) -> Place | None:
    """The kind of server that a URI names; None for a path.

    Raises:
        DataError: a URI of a kind that is not known.
    """
    if uri.startswith(s3.SCHEME):
        return s3.S3()
    if uri.startswith(web.SCHEMES):
        return web.Web()
    if "://" in uri:
        raise DataError(f"{uri}: only https://, http://, s3://, paths and 'sample' are known")
    return None


def find(place: Place, uri: str, patience_s: float = PATIENCE_S) -> Upstream:
    """The present version of a file.

    Raises:
        DataError: there is no such file, or the server can't be reached.
    """
    try:
        return _patient(patience_s)(place.find, uri)
    except RetryError as error:
        raise DataError(f"{uri} can't be reached: {_reason(error)}") from error


def download(
    place: Place,
    upstream: Upstream,
    target: Path,
    progress: Progress,
    part_bytes: int = PART_BYTES,
    patience_s: float = PATIENCE_S,
) -> None:
    """Fetch exactly this version to `target`, going on where an earlier call stopped.

    Raises:
        DataError: the version is gone, the server can't be reached any more, or the disk is
            full; what has come so far is kept for the next call.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(upstream, target)
    if not upstream.version:
        partial.unlink(missing_ok=True)  # nothing says that it is the beginning of the same file
    while True:
        before = _length(partial)
        try:
            _patient(patience_s)(_go_on, place, upstream, partial, progress, part_bytes)
            break
        except RetryError as error:
            if _length(partial) > before:
                continue
            raise DataError(
                f"{upstream.uri}: the connection broke and stays broken ({_reason(error)}); "
                f"{_length(partial):,} bytes are kept: run it again to go on from there"
            ) from error
        except OSError as error:
            raise DataError(f"{partial} can't be written: {error.strerror}") from error
    size = _length(partial)
    if upstream.size is not None and size != upstream.size:
        partial.unlink()
        raise DataError(
            f"{upstream.uri} has {size:,} bytes, not {upstream.size:,}: run 'fer source pin "
            f"{upstream.uri}' to take what is there now"
        )
    partial.replace(target)


def _go_on(
    place: Place, upstream: Upstream, partial: Path, progress: Progress, part_bytes: int
) -> None:
    """Append what is still missing; where the connection breaks, what came before it is kept."""
    if not place.reads_ranges:
        partial.unlink(missing_ok=True)
    with partial.open("ab") as stream:
        done = stream.tell()
        progress(done, upstream.size)
        for chunk in _chunks(place, upstream, done, part_bytes):
            stream.write(chunk)
            done += len(chunk)
            progress(done, upstream.size)


def _chunks(place: Place, upstream: Upstream, start: int, part_bytes: int) -> Iterator[bytes]:
    if upstream.size is None or not place.reads_ranges:
        yield from place.read(upstream, start, None)
        return
    # At least one part, so that an empty file is asked for too.
    starts = range(start, max(upstream.size, start + 1), part_bytes)
    parts = [(first, min(first + part_bytes, upstream.size)) for first in starts]
    with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
        waiting: deque[Future[bytes]] = deque()
        try:
            for first, stop in parts:
                if first < stop:
                    waiting.append(pool.submit(_read_part, place, upstream, first, stop))
                if len(waiting) >= PARALLEL_PARTS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read_part(place: Place, upstream: Upstream, start: int, stop: int) -> bytes:
    content = b"".join(place.read(upstream, start, stop))
    if len(content) != stop - start:
        raise BrokenConnectionError(f"{len(content):,} bytes instead of {stop - start:,}")
    return content


def _patient(patience_s: float) -> Retrying:
    return Retrying(
        retry=retry_if_exception_type(BrokenConnectionError),
        wait=wait_exponential_jitter(multiplier=0.2, max=5.0, jitter=0.5),
        stop=stop_after_delay(patience_s),
    )


def _partial(upstream: Upstream, target: Path) -> Path:
    version = hashlib.sha256(upstream.version.encode()).hexdigest()[:8]
    return target.with_name(f".partial-{version}-{target.name}")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: RetryError) -> str:
    last = error.last_attempt.exception()
    return " ".join(str(last).split())[:200]

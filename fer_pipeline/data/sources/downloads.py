"""Files from servers, fetched so that a broken connection or a killed process costs little.

A file is written in order, beside its target, under a name that holds its version: the length of
that partial file is how far it came. It outlives the process, and any later call goes on from
its end; a call for another version never sees it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from io import FileIO
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Event, Thread

from filelock import FileLock, Timeout
from tenacity import stop_after_attempt, stop_after_delay, stop_any, stop_when_event_set

from fer_pipeline.data.sources import s3, web
from fer_pipeline.data.sources.upstream import (
    BrokenConnectionError,
    Place,
    Silence,
    Upstream,
    VersionGoneError,
    WholeFileOnlyError,
    insist,
)
from fer_pipeline.errors import DataError, SourceUnreachableError

PART_BYTES = 8 << 20
PARALLEL_PARTS = 4
"""Together they bound the memory: no more than so many parts wait to be written."""

PATIENCE_S = 60.0
"""How long a server may send nothing before a download is given up."""

FIND_PATIENCE_S = 10.0
"""The same for a question: somebody waits who may have mistyped the address."""

WHOLE_FILE_TRIES = 10

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there so far, and how many there will be, or None."""


def place_of(uri: str) -> Place | None:
    """The kind of server that a URI names; None for a path.

    Raises:
        DataError: a URI of a kind that is not known.
    """
    if uri.lower().startswith(s3.SCHEME):
        return s3.S3()
    if uri.lower().startswith(web.SCHEMES):
        return web.Web()
    if "://" in uri:
        scheme = uri.partition("://")[0]
        raise DataError(f"{scheme}:// is not known: give https://, http://, s3:// or a path")
    return None


def find(place: Place, uri: str, patience_s: float = FIND_PATIENCE_S) -> Upstream:
    """The present version of a file.

    Raises:
        DataError: there is no such file, it may not be read, or the server can't be reached.
    """
    try:
        return insist(stop_after_delay(patience_s))(place.find, uri)
    except BrokenConnectionError as error:
        raise SourceUnreachableError(
            f"{uri} can't be reached ({error}): check the address and the network, then try again"
        ) from error


def download(
    place: Place,
    upstream: Upstream,
    target: Path,
    progress: Progress,
    part_bytes: int = PART_BYTES,
    patience_s: float = PATIENCE_S,
) -> None:
    """Fetch exactly this version to `target`, going on where an earlier call stopped.

    Without a version, or from a server that only sends whole files, it starts from the beginning,
    and again after each break.

    Raises:
        DataError: the version is gone or replaced, the connection broke for good, the disk is
            full, or another process is at it. What has come is kept for the next call.
    """
    version = hashlib.sha256(upstream.version.encode()).hexdigest()[:8]
    partial = target.with_name(f".partial-{version}-{target.name}")
    silence = Silence(patience_s)
    with _alone(partial):
        try:
            _fetch(place, upstream, partial, progress, part_bytes, silence)
        except BrokenConnectionError as error:
            raise SourceUnreachableError(
                f"{upstream.uri} broke off ({error}), and trying again did not help; "
                f"{_length(partial):,} bytes are in {partial}: run the same again, and it goes on "
                f"from there if the server can"
            ) from error
        _require_size(partial, upstream)
        partial.replace(target)


class _Parts:
    """A file in parts, read several at a time and handed out in order.

    Each part goes on after a break from its own last byte, so nothing that came is asked again.
    The threads are daemons: Ctrl-C does not wait for a server that says nothing.
    """

    def __init__(self, place: Place, upstream: Upstream, part_bytes: int, silence: Silence) -> None:
        self._place, self._upstream = place, upstream
        self._part_bytes, self._silence = part_bytes, silence
        self._stopped = Event()

    def chunks(self, start: int, size: int) -> Generator[bytes, None, None]:
        """The bytes from `start` to the end of the file, at `size`."""
        step = self._part_bytes
        parts = ((first, min(first + step, size)) for first in range(start, size, step))
        ahead = deque(self._begin(*part) for part in islice(parts, PARALLEL_PARTS))
        try:
            while ahead:
                yield from _emptied(ahead.popleft())
                ahead.extend(self._begin(*part) for part in islice(parts, 1))
        finally:
            self._stopped.set()

    def _begin(self, start: int, stop: int) -> _Chunks:
        chunks: _Chunks = Queue()
        Thread(target=self._read, args=(start, stop, chunks), daemon=True).start()
        return chunks

    def _read(self, start: int, stop: int, chunks: _Chunks) -> None:
        end = stop_any(self._silence, stop_when_event_set(self._stopped))
        try:
            while start < stop:
                start = insist(end, self._stopped)(self._read_some, start, stop, chunks)
            chunks.put(None)
        except BaseException as error:  # raised again where the chunks are taken out
            chunks.put(error)

    def _read_some(self, start: int, stop: int, chunks: _Chunks) -> int:
        """Read until the end or a break; gives how far it came, or raises if it came nowhere."""
        reached = start
        try:
            with closing(self._place.read(self._upstream, start, stop)) as stream:
                for chunk in stream:
                    if self._stopped.is_set():
                        return stop
                    chunks.put(chunk)
                    reached += len(chunk)
                    self._silence.heard()
        except BrokenConnectionError:
            if reached == start:
                raise
        if reached == start:
            raise BrokenConnectionError("the answer was empty")
        return reached


_Chunks = Queue[bytes | BaseException | None]
"""Of one part; None is its end."""


def _emptied(chunks: _Chunks) -> Iterator[bytes]:
    while (chunk := chunks.get()) is not None:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def _fetch(
    place: Place,
    upstream: Upstream,
    partial: Path,
    progress: Progress,
    part_bytes: int,
    silence: Silence,
) -> None:
    if upstream.version and upstream.size is not None:
        if _length(partial) > upstream.size:  # not by this code
            partial.unlink()
        parts = _Parts(place, upstream, part_bytes, silence)
        try:
            _append(parts.chunks(_length(partial), upstream.size), partial, upstream, progress)
            return
        except WholeFileOnlyError:
            pass

    def from_the_beginning() -> None:
        partial.unlink(missing_ok=True)
        _append(place.read(upstream, 0, None), partial, upstream, progress, silence.heard)
        if upstream.size is not None and _length(partial) < upstream.size:
            raise BrokenConnectionError("the answer was cut short")

    insist(stop_any(silence, stop_after_attempt(WHOLE_FILE_TRIES)))(from_the_beginning)


def _append(
    chunks: Generator[bytes, None, None],
    partial: Path,
    upstream: Upstream,
    progress: Progress,
    heard: Callable[[], None] | None = None,
) -> None:
    with closing(chunks), _opened(partial) as stream:
        done = stream.tell()
        progress(done, upstream.size)
        for chunk in chunks:
            if heard:
                heard()
            _write(stream, chunk, partial)
            done += len(chunk)
            progress(done, upstream.size)


def _opened(partial: Path) -> FileIO:
    """Unbuffered, so that a killed process leaves all that it was given."""
    with _explained(partial):
        return partial.open("ab", buffering=0)


def _write(stream: FileIO, chunk: bytes, partial: Path) -> None:
    rest = memoryview(chunk)
    with _explained(partial):
        while rest:
            rest = rest[stream.write(rest) :]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} can't be written ({error.strerror}): make room or give write access, then "
            f"run the same again"
        ) from error


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Two processes that append to one file would write its bytes twice."""
    lock = FileLock(partial.with_name(f"{partial.name}.lock"), timeout=0)
    try:
        with _explained(partial):
            partial.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{partial} is being written by another process: wait until that one has ended"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_size(partial: Path, upstream: Upstream) -> None:
    size = _length(partial)
    if upstream.size is not None and size != upstream.size:
        partial.unlink()
        raise VersionGoneError(
            f"{upstream.uri} has {size:,} bytes, not the {upstream.size:,} that were announced"
        )


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

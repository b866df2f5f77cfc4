"""Files from servers, fetched so that a broken connection or a killed process costs little.

A file is written in order, beside its target, under a name that holds its version: the length of
that partial file is how far it came. It outlives the process, and any later call goes on from
its end; a call for another version never sees it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from fer_pipeline.errors import DataError, SourceUnreachableError

IDLE_TIMEOUT_S = 60.0
"""Seconds for which a server may send nothing before a download is given up."""

FIND_TIMEOUT_S = 10.0
"""The same for a question: somebody waits who may have mistyped the address."""

WHOLE_FILE_TRIES = 10
"""Attempts at a file from a server that can't go on in its middle."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there so far, and how many there will be, or None."""


@dataclass(frozen=True)
class Upstream:
    """One version of a file on a server.

    Attributes:
        uri: of the file.
        version: the server's own name for the version, verbatim: `VersionId=…` or `ETag=…` of
            an object in S3, `ETag=…` or `Last-Modified=…` of a file on the web. Empty where
            the server names none.
        size: in bytes, or None where the server does not say.
    """

    uri: str
    version: str
    size: int | None


class BrokenConnectionError(Exception):
    """A question or a transfer that may succeed if it is tried again; never reaches users."""


class VersionGoneError(DataError):
    """The server has not the pinned version any more; whoever knows the pin says what to do."""


class WholeFileOnlyError(Exception):
    """The server can't start in the middle of this file; never reaches users."""


class Place(Protocol):
    """A kind of server. Asks once: whoever calls tries again after a `BrokenConnectionError`."""

    def find(self, uri: str) -> Upstream:
        """The present version of a file.

        Raises:
            DataError: there is no such file, or it may not be read.
            BrokenConnectionError: the server could not be reached, or is not well.
        """

    def read(self, upstream: Upstream, start: int) -> Generator[bytes, None, None]:
        """The bytes from `start` to the end of exactly this version.

        May end early, as if the connection had broken.

        Raises:
            VersionGoneError: the version is gone or replaced.
            DataError: it may not be read.
            BrokenConnectionError: the connection broke, before the first byte or later.
            WholeFileOnlyError: this server only sends files from beginning to end.
        """

    def close(self) -> None:
        """Let go of connections; the next call would open new ones."""


class IdleTimeout(stop_base):
    """When to stop trying again: the server has sent nothing for too long."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.reset()

    def reset(self) -> None:
        self._since = time.monotonic()

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time.monotonic() - self._since >= self._timeout_s


def find(place: Place, uri: str, timeout_s: float = FIND_TIMEOUT_S) -> Upstream:
    """The present version of a file.

    Raises:
        DataError: there is no such file, it may not be read, or the server can't be reached.
    """
    try:
        return _retrying(stop_after_delay(timeout_s))(place.find, uri)
    except BrokenConnectionError as error:
        raise SourceUnreachableError(
            f"{uri} can't be reached ({error}): check the address and the network, then try again"
        ) from error


def download(
    place: Place,
    upstream: Upstream,
    target: Path,
    progress: Progress,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
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
    with _alone(partial):
        try:
            _Transfer(place, upstream, partial, progress, IdleTimeout(idle_timeout_s)).run()
        except BrokenConnectionError as error:
            raise SourceUnreachableError(
                f"{upstream.uri} broke off ({error}), and trying again did not help; "
                f"{_length(partial):,} bytes are in {partial}: run the same again, and it goes on "
                f"from there if the server can"
            ) from error
        _require_size(partial, upstream)
        partial.replace(target)


class _Transfer:
    """One file's way from a server into its partial file."""

    def __init__(
        self, place: Place, upstream: Upstream, partial: Path, progress: Progress, idle: IdleTimeout
    ) -> None:
        self._place, self._upstream, self._partial = place, upstream, partial
        self._progress, self._idle = progress, idle

    def run(self) -> None:
        size = self._upstream.size
        if not self._upstream.version or size is None:
            self._read_whole()
            return
        if _length(self._partial) > size:  # not by this code
            self._partial.unlink()
        with _explained(self._partial):
            self._partial.touch()
        self._progress(_length(self._partial), size)
        try:
            while _length(self._partial) < size:
                _retrying(self._idle)(self._read_on)
        except WholeFileOnlyError:
            self._read_whole()

    def _read_on(self) -> None:
        """Read until the end or a break; a break is an error only if nothing came before it."""
        start = _length(self._partial)
        try:
            self._append(start)
        except BrokenConnectionError:
            if _length(self._partial) == start:
                raise
        if _length(self._partial) == start:
            raise BrokenConnectionError("the answer was empty")

    def _read_whole(self) -> None:
        stop = stop_any(self._idle, stop_after_attempt(WHOLE_FILE_TRIES))
        _retrying(stop)(self._read_from_the_beginning)

    def _read_from_the_beginning(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._append(0)
        if self._upstream.size is not None and _length(self._partial) < self._upstream.size:
            raise BrokenConnectionError("the answer was cut short")

    def _append(self, done: int) -> None:
        chunks = self._place.read(self._upstream, done)
        with closing(chunks), _opened(self._partial) as stream:
            self._progress(done, self._upstream.size)
            for chunk in chunks:
                self._idle.reset()
                _write(stream, chunk, self._partial)
                done += len(chunk)
                self._progress(done, self._upstream.size)


def _retrying(stop: stop_base) -> Retrying:
    """Tries again after a broken connection: at first soon, later after eight seconds at most."""
    return Retrying(
        retry=retry_if_exception_type(BrokenConnectionError),
        wait=wait_random_exponential(multiplier=0.5, max=8.0),
        stop=stop,
        reraise=True,
    )


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
            f"{path} can't be written ({error.strerror}): free some space or give write access, "
            f"then run the same again"
        ) from error


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Two processes that append to one file would write its bytes twice."""
    lock = FileLock(partial.with_name(f"{partial.name}.lock"), timeout=0)
    with _explained(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock:
            yield
    except Timeout:
        raise DataError(
            f"{partial} is being written by another process: wait until that one has ended"
        ) from None


def _require_size(partial: Path, upstream: Upstream) -> None:
    size = _length(partial)
    if upstream.size is not None and size != upstream.size:
        partial.unlink()
        raise VersionGoneError(
            f"{upstream.uri} has {size:,} bytes, not the {upstream.size:,} that were announced"
        )


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

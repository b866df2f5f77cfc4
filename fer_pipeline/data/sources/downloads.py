"""Files from servers, fetched so that a broken connection or a killed process costs little.

A file is written in order, beside its target, under a name that holds its version: the length of
that partial file is how far it came. It outlives the process, and any later call goes on from
its end; a call for another version never sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from fer_pipeline.errors import DataError, SourceUnreachableError

IDLE_TIMEOUT_S = 60.0
"""Seconds for which a server may send nothing before a download is given up."""

FIND_TIMEOUT_S = 10.0
"""The same for a question: somebody waits who may have mistyped the address."""

WHOLE_FILE_TRIES = 10
"""Attempts at a file from a server that can't go on in its middle, whatever time they take."""

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
        transfer = _Transfer(place, upstream, partial, progress)
        try:
            transfer.run(idle_timeout_s)
        except BrokenConnectionError as error:
            raise SourceUnreachableError(
                f"{upstream.uri} broke off ({error}), and trying again did not help; "
                f"{transfer.done:,} bytes are in {partial}: run the same again, and it goes on "
                f"from there if the server can"
            ) from error
        if upstream.size not in (None, transfer.done):
            partial.unlink()
            raise VersionGoneError(
                f"{upstream.uri} has {transfer.done:,} bytes, not the {upstream.size:,} that were "
                f"announced"
            )
        partial.replace(target)


@dataclass(frozen=True)
class _Transfer:
    """One file's way from a server into its partial file."""

    place: Place
    upstream: Upstream
    partial: Path
    progress: Progress

    @property
    def done(self) -> int:
        """The bytes that have come."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def run(self, idle_timeout_s: float) -> None:
        size = self.upstream.size
        if size is not None and self.done > size:
            self.partial.unlink()  # what has come is something else
        try:
            if not self.upstream.version or size is None:
                raise WholeFileOnlyError
            while self.done < size or not self.partial.exists():
                _retrying(stop_after_delay(idle_timeout_s))(self._read_on)
        except WholeFileOnlyError:
            _retrying(stop_after_attempt(WHOLE_FILE_TRIES))(self._read_whole)

    def _read_on(self) -> None:
        """Read until the end or a break; a break is an error only if nothing came before it."""
        start = self.done
        try:
            self._append(start)
        except BrokenConnectionError:
            if self.done == start:
                raise
        if self.done == start < (self.upstream.size or 0):
            raise BrokenConnectionError("the answer was empty")

    def _read_whole(self) -> None:
        self.partial.unlink(missing_ok=True)
        self._append(0)
        if self.done < (self.upstream.size or 0):
            raise BrokenConnectionError("the answer was cut short")

    def _append(self, done: int) -> None:
        chunks = self.place.read(self.upstream, done)
        with closing(chunks), _explained(self.partial), self.partial.open("ab") as stream:
            self.progress(done, self.upstream.size)
            for chunk in chunks:
                stream.write(chunk)
                stream.flush()  # so that a killed process leaves all that it was given
                done += len(chunk)
                self.progress(done, self.upstream.size)


def _retrying(stop: stop_base) -> Retrying:
    """Tries again after a broken connection: at first soon, later after eight seconds at most."""
    return Retrying(
        retry=retry_if_exception_type(BrokenConnectionError),
        wait=wait_random_exponential(multiplier=0.5, max=8.0),
        stop=stop,
        reraise=True,
    )


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

"""Files from servers, fetched so that a broken connection or a killed process costs little.

A file is written in order, beside its target, under a name that holds its version: the length of
that partial file is how far it came. It outlives the process, and any later call goes on from
its end; a call for another version never sees it.
"""

from __future__ import annotations

import hashlib
import os
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

_TRY_AGAIN = (408, 425, 429)
"""Answers that may be others in a moment: time-out, too early, too many requests."""

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


def refusal(uri: str, status: int, said: str, login: str, pinned: bool) -> Exception:
    """What a server means that answers with an HTTP status from 300 on.

    Args:
        uri: what was asked for.
        status: of the answer.
        said: the status or another word of the server for it, for the message.
        login: what to do where the server wants another login.
        pinned: whether one version was asked for.
    """
    if status >= 500 or status in _TRY_AGAIN:
        return BrokenConnectionError(f"the server answers {said}")
    if pinned and status in (404, 410, 412, 416):
        happened = "has gone" if status in (404, 410) else "has changed"
        return VersionGoneError(f"{uri} {happened} since it was pinned ({said})")
    if status in (404, 410):
        return DataError(f"{uri} is not there ({said}): check the address (a and A differ)")
    if status in (401, 403):
        return DataError(f"{uri} is refused ({said}): {login}")
    return DataError(f"{uri} can't be read ({said}): check the address")


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
            f"{uri} can't be reached ({error}): check the address and the network"
        ) from error


def download(
    place: Place,
    upstream: Upstream,
    target: Path,
    progress: Progress,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> None:
    """Write exactly this version to `target`, going on where an earlier call stopped.

    Without a version, or from a server that only sends whole files, it starts from the beginning,
    and again after each break.

    Raises:
        DataError: the version is gone or replaced, the connection broke for good, the disk is
            full, or another process is at it. What has come is kept for the next call.
    """
    _require_small(upstream.uri, upstream.size or 0)
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


class _Transfer:
    """One file's way from a server into its partial file."""

    def __init__(self, place: Place, upstream: Upstream, partial: Path, progress: Progress) -> None:
        self._place, self._upstream = place, upstream
        self._partial, self._progress = partial, progress
        # Whether it can only come from beginning to end.
        self._whole = not upstream.version or upstream.size is None

    @property
    def done(self) -> int:
        """The bytes that have come."""
        return self._partial.stat().st_size if self._partial.exists() else 0

    def run(self, idle_timeout_s: float) -> None:
        if self._whole or self.done > (self._upstream.size or 0):
            self._partial.unlink(missing_ok=True)  # what has come may be something else
        ended = self._partial.exists() and self.done == self._upstream.size
        while not ended:
            tries, delay = stop_after_attempt(WHOLE_FILE_TRIES), stop_after_delay(idle_timeout_s)
            ended = _retrying(tries if self._whole else delay)(self._attempt)

    def _attempt(self) -> bool:
        """Whether the end was reached; a break is an error only if nothing came before it."""
        start = 0 if self._whole else self.done
        try:
            self._append(start)
            return True
        except WholeFileOnlyError:
            self._whole = True
        except BrokenConnectionError:
            if self._whole or self.done == start:
                raise
        return False

    def _append(self, done: int) -> None:
        size, chunks = self._upstream.size, self._place.read(self._upstream, done)
        mode = "ab" if done else "wb"
        with closing(chunks), _explained(self._partial), self._partial.open(mode) as stream:
            self._progress(done, size)
            for chunk in chunks:
                _require_small(self._upstream.uri, done + len(chunk))
                stream.write(chunk)
                stream.flush()  # so that a killed process leaves all that it was given
                done += len(chunk)
                self._progress(done, size)
        if done < (size or 0):
            raise BrokenConnectionError("the answer was cut short")


def _require_small(uri: str, size: int) -> None:
    """Refuse what is announced or has come, if it is more than `FER_MAX_DOWNLOAD_GIB`."""
    limit = os.environ.get("FER_MAX_DOWNLOAD_GIB") or "2"
    try:
        allowed = float(limit) * (1 << 30)
    except ValueError:
        raise DataError(f"FER_MAX_DOWNLOAD_GIB is {limit!r}, no number of GiB") from None
    if not size <= allowed:
        raise DataError(
            f"{uri} has {size:,} bytes or more, and {limit} GiB are allowed: set "
            f"FER_MAX_DOWNLOAD_GIB if it is what you want"
        )


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

"""Files from servers, fetched so that a broken connection or a killed process costs little.

A file is written in order, beside its target, under a name that holds its version: the length of
that partial file is how far it came. It outlives the process, and any later call goes on from
its end; a call for another version never sees it.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock, Timeout

from fer_pipeline.data.sources.pins import require_no_secret
from fer_pipeline.errors import DataError, SourceUnreachableError

TRIES = 16
"""Connections in a row that may break and bring nothing: a minute, with the waits between them."""

FIND_TRIES = 4
"""The same for a question: somebody waits who may have mistyped the address."""

MAX_WAIT_S = 8.0
"""The longest wait before another try; it begins with half a second, and doubles."""

_TRY_AGAIN = (408, 425, 429)
"""Answers that may be others in a moment: time-out, too early, too many requests."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there so far, and how many there will be, or None."""

Answer = TypeVar("Answer")


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
        """


def find(place: Place, uri: str, tries: int = FIND_TRIES) -> Upstream:
    """The present version of a file.

    Raises:
        DataError: there is no such file, it may not be read, or the server can't be reached.
    """
    require_no_secret(uri)
    try:
        return _retry(lambda: place.find(uri), tries, lambda: 0)
    except BrokenConnectionError as error:
        raise SourceUnreachableError(
            f"{uri} can't be reached ({error}): check the address and the network"
        ) from error


def download(
    place: Place, upstream: Upstream, target: Path, progress: Progress, tries: int = TRIES
) -> None:
    """Write exactly this version to `target`, going on where an earlier call stopped.

    Without a version or a size to know it by, it starts from the beginning, and again after each
    break.

    Raises:
        DataError: the version is gone or replaced, the connection broke for good, the disk is
            full, or another process is at it. What has come is kept for the next call.
    """
    _require_small(upstream.uri, upstream.size or 0)
    version = hashlib.sha256(upstream.version.encode()).hexdigest()[:8]
    partial = target.with_name(f".partial-{version}-{target.name}")
    with _alone(partial):
        try:
            _transfer(place, upstream, partial, progress, tries)
        except BrokenConnectionError as error:
            raise SourceUnreachableError(
                f"{upstream.uri} broke off ({error}), and trying again did not help; "
                f"{_size(partial):,} bytes are in {partial}: run the same again, and it goes on "
                f"from there if the server can"
            ) from error
        if upstream.size not in (None, _size(partial)):
            done = _size(partial)
            partial.unlink()
            raise VersionGoneError(
                f"{upstream.uri} has {done:,} bytes, not the {upstream.size:,} that were announced"
            )
        partial.replace(target)


def _transfer(
    place: Place, upstream: Upstream, partial: Path, progress: Progress, tries: int
) -> None:
    known = bool(upstream.version) and upstream.size is not None
    if not known or _size(partial) > (upstream.size or 0):
        partial.unlink(missing_ok=True)  # what has come may be something else

    def attempt() -> None:
        _append(place, upstream, partial, _size(partial) if known else 0, progress)

    if not (partial.exists() and _size(partial) == upstream.size):
        _retry(attempt, tries, lambda: _size(partial))


def _append(place: Place, upstream: Upstream, partial: Path, done: int, progress: Progress) -> None:
    chunks = place.read(upstream, done)
    with closing(chunks), _explained(partial), partial.open("ab" if done else "wb") as stream:
        progress(done, upstream.size)
        for chunk in chunks:
            _require_small(upstream.uri, done + len(chunk))
            stream.write(chunk)
            stream.flush()  # so that a killed process leaves all that it was given
            done += len(chunk)
            progress(done, upstream.size)
    if done < (upstream.size or 0):
        raise BrokenConnectionError("the answer was cut short")


def _retry(attempt: Callable[[], Answer], tries: int, done: Callable[[], int]) -> Answer:
    """Try again after a broken connection, up to `tries` times in a row with no more done."""
    failures, most = 0, done()
    while True:
        try:
            return attempt()
        except BrokenConnectionError:
            failures = 0 if done() > most else failures + 1
            most = max(most, done())
            if failures == tries:
                raise
            if failures:
                time.sleep(random.uniform(0, min(MAX_WAIT_S, 2**failures / 4)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


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
    with _explained(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(partial.with_name(f"{partial.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise DataError(
            f"{partial} is being written by another process: wait until that one has ended"
        ) from None

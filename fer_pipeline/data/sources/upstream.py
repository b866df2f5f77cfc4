"""What every place where a source may lie has in common: versions, bytes, and trying again."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from fer_pipeline.errors import DataError


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
    """A kind of server. Asks once: whoever calls tries again after a `BrokenConnectionError`.

    `read` may run in several threads at once.
    """

    def find(self, uri: str) -> Upstream:
        """The present version of a file.

        Raises:
            DataError: there is no such file, or it may not be read.
            BrokenConnectionError: the server could not be reached, or is not well.
        """

    def read(
        self, upstream: Upstream, start: int, stop: int | None
    ) -> Generator[bytes, None, None]:
        """The bytes from `start` to before `stop`, or to the end, of exactly this version.

        May end early, as if the connection had broken.

        Raises:
            VersionGoneError: the version is gone or replaced.
            DataError: it may not be read.
            BrokenConnectionError: the connection broke, before the first byte or later.
            WholeFileOnlyError: this server only sends files from beginning to end.
        """

    def close(self) -> None:
        """Let go of connections; the next call would open new ones."""


class Silence(stop_base):
    """When to stop insisting: the server has sent nothing for too long."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self.heard()

    def heard(self) -> None:
        self._heard_at = time.monotonic()

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time.monotonic() - self._heard_at >= self._patience_s


def insist(stop: stop_base, stopped: Event | None = None) -> Retrying:
    """Tries again after a broken connection: at first soon, later after eight seconds at most.

    Args:
        stop: when to give up, and raise the last `BrokenConnectionError`.
        stopped: ends the wait for the next try at once.
    """
    return Retrying(
        retry=retry_if_exception_type(BrokenConnectionError),
        wait=wait_random_exponential(multiplier=0.5, max=8.0),
        stop=stop,
        sleep=sleep_using_event(stopped or Event()),
        reraise=True,
    )

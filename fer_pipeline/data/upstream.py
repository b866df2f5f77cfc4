"""What every place where a source may lie has in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Upstream:
    """One version of a file on a server.

    Attributes:
        uri: of the file.
        version: the server's own name for the version, such as `VersionId=…`, `ETag=…` or
            `Last-Modified=…`; empty where the server gives none.
        size: in bytes, or None where the server does not say.
    """

    uri: str
    version: str
    size: int | None


class BrokenConnectionError(Exception):
    """A transfer that may succeed if it is tried again."""


class Place(Protocol):
    """A kind of server."""

    def find(self, uri: str) -> Upstream:
        """The present version of a file.

        Raises:
            DataError: there is no such file, or it may not be read.
            BrokenConnectionError: the server did not answer.
        """

    def read(self, upstream: Upstream, start: int, stop: int | None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, or to the end, of exactly that version.

        Raises:
            DataError: the version is gone, or may not be read.
            BrokenConnectionError: the connection broke, before or between bytes.
        """

    @property
    def reads_ranges(self) -> bool:
        """Whether `read` can start elsewhere than at 0, as far as is known by now."""

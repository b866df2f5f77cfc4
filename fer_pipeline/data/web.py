"""Sources at `https://…` and `http://…`; requests takes credentials from `~/.netrc`."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import requests

from fer_pipeline.data.upstream import BrokenConnectionError, Upstream
from fer_pipeline.errors import DataError

SCHEMES = ("https://", "http://")
CHUNK_BYTES = 1 << 20

_TIMEOUT_S = (5, 20)
"""To connect, and between two bytes."""

_SECRETS = ("sig", "signature", "token", "key", "secret", "password", "credential", "auth")
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


class Web:
    """Files on web servers."""

    def __init__(self) -> None:
        self.reads_ranges = True

    def find(self, uri: str) -> Upstream:
        _require_no_secret(uri)
        answer = _ask("HEAD", uri)
        if answer.status_code in (403, 405, 501):  # some servers answer GET alone
            answer.close()
            answer = _ask("GET", uri)
        with answer:
            _require_good(answer, uri)
            self.reads_ranges = answer.headers.get("Accept-Ranges") == "bytes"
            size = answer.headers.get("Content-Length")
            return Upstream(uri, _version(answer), int(size) if size else None)

    def read(self, upstream: Upstream, start: int, stop: int | None) -> Iterator[bytes]:
        uri = upstream.uri
        headers = {}
        if start or stop is not None:
            last = "" if stop is None else stop - 1
            headers["Range"] = f"bytes={start}-{last}"
        with _ask("GET", uri, headers) as answer:
            _require_good(answer, uri)
            if upstream.version and _version(answer) != upstream.version:
                raise DataError(
                    f"{uri} has changed since it was pinned: run 'fer source pin {uri}' to take "
                    f"what is there now"
                )
            if headers and answer.status_code != requests.codes.partial_content:
                self.reads_ranges = False
                raise BrokenConnectionError("the server sends whole files only")
            try:
                yield from answer.iter_content(CHUNK_BYTES)
            except _BROKEN as error:
                raise BrokenConnectionError(_one_line(error)) from error


def _ask(method: str, uri: str, headers: dict[str, str] | None = None) -> requests.Response:
    # Bytes as they are: what is compressed on the way would not have the file's sha256.
    wanted = {"Accept-Encoding": "identity", **(headers or {})}
    try:
        return requests.request(
            method, uri, headers=wanted, stream=True, timeout=_TIMEOUT_S, allow_redirects=True
        )
    except _BROKEN as error:
        raise BrokenConnectionError(_one_line(error)) from error
    except requests.RequestException as error:
        raise DataError(f"{uri} can't be read: {_one_line(error)}") from error


def _require_good(answer: requests.Response, uri: str) -> None:
    status = answer.status_code
    if status >= 500 or status in (408, 425, 429):
        raise BrokenConnectionError(f"HTTP {status}")
    if status in (401, 403):
        raise DataError(f"{uri}: access denied (HTTP {status}): put credentials into ~/.netrc")
    if status in (404, 410):
        raise DataError(f"{uri}: there is no such file (HTTP {status}): check the address")
    if status >= 300:
        raise DataError(f"{uri} can't be read: HTTP {status} {answer.reason}")


def _version(answer: requests.Response) -> str:
    for name in ("ETag", "Last-Modified"):
        if answer.headers.get(name):
            return f"{name}={answer.headers[name]}"
    return ""


def _require_no_secret(uri: str) -> None:
    """The URI is written to a file that is committed."""
    parts = urlsplit(uri)
    if not parts.hostname:
        raise DataError(f"{uri} is no address: it names no server")
    place = f"{parts.scheme}://{parts.hostname}{parts.path}"
    if parts.username or parts.password:
        raise DataError(f"{place}: credentials do not belong in the address: use ~/.netrc")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if any(word in name.lower() for word in _SECRETS):
            raise DataError(
                f"{place}: '{name}' in the address looks like a secret, and the address is "
                f"written to a file that is committed: use ~/.netrc, or s3:// with AWS_*"
            )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

"""Sources at `https://…` and `http://…`. requests takes logins from `~/.netrc`, as curl does."""

from __future__ import annotations

import re
import ssl
from collections.abc import Generator
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import requests
from urllib3.exceptions import HTTPError

from fer_pipeline.data.sources.downloads import (
    BrokenConnectionError,
    Upstream,
    VersionGoneError,
    WholeFileOnlyError,
    refusal,
)
from fer_pipeline.errors import DataError

SCHEMES = ("https://", "http://")

_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = (5, 20)
"""To connect, and between two bytes."""

_HEAD_REFUSED = (403, 405, 501)
"""Answers of servers that only know GET."""

_SECRET_NAME = re.compile(
    r"signature|token|secret|passw|pwd|credential|access_?-?key|key$"
    r"|(^|[-_.])(sig|auth|authorization|jwt|pass|session)($|[-_.])",
    re.IGNORECASE,
)


class Web:
    """Files on web servers. A server that names neither ETag nor Last-Modified has no versions.

    Versions are compared here, not by `If-Match`: it never matches a weak ETag, and many servers
    ignore it.
    """

    def __init__(self) -> None:
        self._session = requests.Session()

    def find(self, uri: str) -> Upstream:
        _require_no_secret(uri)
        answer = self._ask("HEAD", uri)
        if answer.status_code in _HEAD_REFUSED:
            answer.close()
            answer = self._ask("GET", uri)
        with answer:
            _require_good(answer, uri, pinned=False)
            return Upstream(uri, _version(answer), _content_length(answer))

    def read(self, upstream: Upstream, start: int) -> Generator[bytes, None, None]:
        _require_no_secret(upstream.uri)
        wanted = {"Range": f"bytes={start}-"} if start else {}
        with self._ask("GET", upstream.uri, **wanted) as answer:
            _require_pinned(answer, upstream)
            if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
                _require_range(answer, upstream, start)
            elif start:
                raise WholeFileOnlyError
            elif upstream.size not in (None, _content_length(answer) or upstream.size):
                raise _changed(upstream, f"{_content_length(answer):,} bytes")
            try:
                # As sent: what is unpacked on the way has neither the size nor the ranges.
                yield from answer.raw.stream(_CHUNK_BYTES, decode_content=False)
            except HTTPError as error:
                raise BrokenConnectionError(_reason(error)) from None

    def _ask(self, method: str, uri: str, **headers: str) -> requests.Response:
        """The answer's head; its body is still to be read.

        The exceptions of requests are left out of the traceback: they hold the addresses of
        redirections, and with them the signatures of storage servers.
        """
        try:
            headers["Accept-Encoding"] = "identity"
            return self._session.request(
                method, uri, headers=headers, stream=True, timeout=_TIMEOUT_S, allow_redirects=True
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            if any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error)):
                raise DataError(
                    f"{uri}: its TLS certificate is not trusted here: set REQUESTS_CA_BUNDLE to "
                    f"a file with the one of its authority"
                ) from None
            raise BrokenConnectionError(_reason(error)) from None
        except (requests.RequestException, UnicodeError) as error:
            raise DataError(
                f"{uri} can't be asked for ({type(error).__name__}): check the address"
            ) from None


def _require_good(answer: requests.Response, uri: str, pinned: bool) -> None:
    status = answer.status_code
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        login = f"put a login for {urlsplit(uri).hostname} into ~/.netrc"
        raise refusal(uri, status, f"HTTP {status}", login, pinned)


def _require_pinned(answer: requests.Response, upstream: Upstream) -> None:
    _require_good(answer, upstream.uri, pinned=True)
    if upstream.version and _version(answer) != upstream.version:
        raise _changed(upstream, _version(answer) or "no version")


def _require_range(answer: requests.Response, upstream: Upstream, start: int) -> None:
    found = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
    )
    if not found or int(found[1]) != start:
        raise WholeFileOnlyError
    if found[3] != "*" and upstream.size not in (None, int(found[3])):
        raise _changed(upstream, f"{int(found[3]):,} bytes")


def _changed(upstream: Upstream, now: str) -> VersionGoneError:
    return VersionGoneError(
        f"{upstream.uri} has changed since it was pinned ({upstream.version or 'no version'}, now "
        f"{now})"
    )


def _version(answer: requests.Response) -> str:
    for name in ("ETag", "Last-Modified"):
        if value := answer.headers.get(name):
            return f"{name}={value}"
    return ""


def _content_length(answer: requests.Response) -> int | None:
    value = answer.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


def _require_no_secret(uri: str) -> None:
    """The address is written to a file that is committed, and into messages."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise DataError(
            "the address of the source can't be read: check how it is written"
        ) from None
    if not host:
        raise DataError(f"{parts.scheme}:{parts.path} names no server: write https://server/file")
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if "@" in parts.netloc:
        raise DataError(
            f"{shown}: the login in its address would be committed with the pin: put it into "
            f"~/.netrc and leave it out of the address"
        )
    for name, _ in parse_qsl(f"{parts.query}&{parts.fragment}", keep_blank_values=True):
        if _SECRET_NAME.search(name):
            raise DataError(
                f"{shown}: '{name}' in its address looks like a secret, and would be committed "
                f"with the pin: put a login into ~/.netrc, or use s3:// with AWS_ACCESS_KEY_ID "
                f"and AWS_SECRET_ACCESS_KEY"
            )


def _reason(error: BaseException) -> str:
    """What the system said, without the address."""
    for one in _causes(error):
        if isinstance(one, OSError) and isinstance(one.strerror, str):
            return one.strerror
    late = isinstance(error, requests.Timeout) or "Timeout" in type(error).__name__
    return "no answer in time" if late else "the connection broke"


def _causes(error: BaseException | None) -> Generator[BaseException, None, None]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

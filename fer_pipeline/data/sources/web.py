"""Sources at `https://…` and `http://…`. requests takes logins from `~/.netrc`, as curl does."""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections.abc import Generator
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from fer_pipeline.data.sources.downloads import (
    BrokenConnectionError,
    Upstream,
    VersionGoneError,
    WholeFileOnlyError,
    refusal,
)
from fer_pipeline.data.sources.pins import require_no_secret
from fer_pipeline.errors import DataError

SCHEMES = ("https://", "http://")

_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = (5, 20)
"""To connect, and between two bytes."""

_HEAD_REFUSED = (403, 405, 501)
"""Answers of servers that only know GET."""

_MAX_REDIRECTIONS = 10

log = logging.getLogger(__name__)


class Web:
    """Files on web servers. A server that names neither ETag nor Last-Modified has no versions.

    Versions are compared here, not by `If-Match`: it never matches a weak ETag, and many servers
    ignore it.
    """

    def __init__(self) -> None:
        self._session = requests.Session()
        self._told: set[str] = set()

    def find(self, uri: str) -> Upstream:
        _require_address(uri)
        answer = self._ask("HEAD", uri)
        if answer.status_code in _HEAD_REFUSED:
            answer.close()
            answer = self._ask("GET", uri)
        with answer:
            _require_good(answer, uri, pinned=False)
            return Upstream(uri, _version(answer), _content_length(answer))

    def read(self, upstream: Upstream, start: int) -> Generator[bytes, None, None]:
        _require_address(upstream.uri)
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
        """The answer's head, wherever the server sends us; its body is still to be read."""
        at = uri
        for _ in range(_MAX_REDIRECTIONS):
            answer = self._ask_once(method, at, uri, headers)
            target = self._session.get_redirect_target(answer)
            if target is None:
                return answer
            answer.close()
            target = urljoin(at, target)
            require_allowed(uri, at, target)
            if _host(target) not in {_host(uri), _host(at), *self._told}:
                log.warning("%s is redirected to %s", uri, _host(target))
                self._told.add(_host(target))
            at = target
        raise DataError(f"{uri} is redirected more than {_MAX_REDIRECTIONS} times: check it")

    def _ask_once(
        self, method: str, at: str, uri: str, headers: dict[str, str]
    ) -> requests.Response:
        """The exceptions of requests are left out of the traceback: they hold the addresses of
        redirections, and with them the signatures of storage servers."""
        headers |= {"Accept-Encoding": "identity"}
        try:
            return self._session.request(
                method, at, headers=headers, stream=True, timeout=_TIMEOUT_S, allow_redirects=False
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            if any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error)):
                raise DataError(
                    f"{uri}: the TLS certificate of {_host(at)} is not trusted here: set "
                    f"REQUESTS_CA_BUNDLE to a file with the one of its authority"
                ) from None
            raise BrokenConnectionError(_reason(error)) from None
        except (requests.RequestException, UnicodeError) as error:
            raise DataError(
                f"{uri} can't be asked for ({type(error).__name__}): check the address"
            ) from None


def require_allowed(uri: str, at: str, target: str) -> None:
    """Refuse a redirection that a server may not decide on.

    Args:
        uri: of the source.
        at: where it has led until now.
        target: where it leads on.

    Raises:
        DataError: it leaves https, or leads into a network that the source is not in.
    """
    before, after = urlsplit(at).scheme.lower(), urlsplit(target).scheme.lower()
    if after not in ("https", before):
        raise DataError(
            f"{uri} is redirected from {before} to {after}, which is refused: give the address of "
            f"the file itself"
        )
    network = _network(_host(target))
    if network and network != _network(_host(uri)):
        raise DataError(
            f"{uri} is redirected to {_host(target)}, a {network} address, which is refused: give "
            f"the address of the file itself"
        )


def _host(uri: str) -> str:
    return urlsplit(uri).hostname or ""


def _network(host: str) -> str:
    """`loopback`, `link-local` or `private`, by the host's addresses; empty if it is public.

    Also where the name is not known: then there is a proxy that knows it, or nothing answers.
    """
    try:
        found = {ip_address(str(one[4][0])) for one in socket.getaddrinfo(host, None)}
    except (OSError, ValueError, UnicodeError):
        return ""
    found = {getattr(one, "ipv4_mapped", None) or one for one in found}
    for name in ("loopback", "link_local"):
        if any(getattr(one, f"is_{name}") for one in found):
            return name.replace("_", "-")
    return "" if all(one.is_global for one in found) else "private"


def _require_good(answer: requests.Response, uri: str, pinned: bool) -> None:
    status = answer.status_code
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        host = _host(answer.url)
        said = f"HTTP {status}" if host == _host(uri) else f"HTTP {status} from {host}"
        raise refusal(uri, status, said, f"put a login for {host} into ~/.netrc", pinned)


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


def _require_address(uri: str) -> None:
    require_no_secret(uri)
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise DataError("the address of the source can't be read: check how it is spelt") from None
    if not host:
        raise DataError(f"{parts.scheme}:{parts.path} names no server: write https://server/file")


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

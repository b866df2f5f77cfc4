"""Sources at `https://…` and `http://…`. requests takes logins from `~/.netrc`, as curl does."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from fer_pipeline.data.sources.downloads import (
    BrokenConnectionError,
    Upstream,
    VersionGoneError,
    refusal,
)
from fer_pipeline.errors import DataError

SCHEMES = ("https://", "http://")

_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = (5, 20)
"""To connect, and between two bytes."""

log = logging.getLogger(__name__)


class Web:
    """Files on web servers. A server that names neither ETag nor Last-Modified has no versions.

    Versions are compared here, not by `If-Match`: it never matches a weak ETag, and many servers
    ignore it. A file is found by GET, whose answer is closed: many servers know no HEAD.
    """

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.max_redirects = 10

    def find(self, uri: str) -> Upstream:
        with self._ask(uri) as answer:
            if _host(answer.url) != _host(uri):
                log.warning("%s is redirected to %s", uri, _host(answer.url))
            _require_good(answer, uri, pinned=False)
            size = answer.headers.get("Content-Length", "")
            return Upstream(uri, _version(answer), int(size) if size.isdecimal() else None)

    def read(self, upstream: Upstream, start: int) -> Generator[bytes, None, None]:
        wanted = {"Range": f"bytes={start}-"} if start else {}
        with self._ask(upstream.uri, **wanted) as answer:
            _require_good(answer, upstream.uri, pinned=True)
            known = start - _first_byte(answer, upstream)
            if known < 0:
                raise BrokenConnectionError("another part of the file came")
            with _explained(upstream.uri):
                # As sent: what is unpacked on the way has neither the size nor the ranges.
                for chunk in answer.raw.stream(_CHUNK_BYTES, decode_content=False):
                    yield chunk[known:]
                    known = max(0, known - len(chunk))

    def _ask(self, uri: str, **headers: str) -> requests.Response:
        """The answer's head, wherever the server sends us; its body is still to be read."""

        def look(answer: requests.Response, **_: object) -> None:
            target = self._session.get_redirect_target(answer)
            if target is not None:
                answer.close()  # nobody needs its body
                require_allowed(uri, answer.url, urljoin(answer.url, target))

        headers["Accept-Encoding"] = "identity"
        with _explained(uri):
            return self._session.get(
                uri, headers=headers, stream=True, timeout=_TIMEOUT_S, hooks={"response": look}
            )


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What requests raises is left out of the traceback: it holds the addresses of redirections,
    and with them the signatures of storage servers."""
    try:
        yield
    except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise DataError(
                f"{uri}: the TLS certificate of its server is not trusted here: set "
                f"REQUESTS_CA_BUNDLE to a file with the one of its authority"
            ) from None
        # What the system said, without the address.
        found = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))
        late = "timed out" in str(error).lower()
        said = "no answer in time" if late else "the connection broke"
        raise BrokenConnectionError(found[1] if found else said) from None
    except (requests.RequestException, ValueError) as error:
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
    except (OSError, ValueError):
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


def _first_byte(answer: requests.Response, upstream: Upstream) -> int:
    """Where the bytes of an answer begin in the file.

    Raises:
        VersionGoneError: it is another version, by its name or size.
    """
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    size = part[2] if part else answer.headers.get("Content-Length", "")
    version = _version(answer)
    if upstream.version and version != upstream.version:
        now = version or "no version"
    elif size.isdecimal() and upstream.size not in (None, int(size)):
        now = f"{int(size):,} bytes"
    else:
        return int(part[1]) if part else 0
    raise VersionGoneError(
        f"{upstream.uri} has changed since it was pinned ({upstream.version or 'no version'}, now "
        f"{now})"
    )


def _version(answer: requests.Response) -> str:
    for name in ("ETag", "Last-Modified"):
        if value := answer.headers.get(name):
            return f"{name}={value}"
    return ""

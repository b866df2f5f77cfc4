"""Sources on real web servers: versions, refusals, and addresses that must not be committed."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

import pytest
from web_server import WebServer

from fer_pipeline.data.sources.downloads import Upstream, VersionGoneError, download, find
from fer_pipeline.data.sources.web import Web
from fer_pipeline.errors import DataError

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(server: WebServer) -> WebServer:
    server.content = CONTENT
    return server


@pytest.fixture
def uri(server: WebServer) -> str:
    return f"{server.address}/fer2013.csv"


def fetched(web: Web, upstream: Upstream, folder: Path) -> bytes:
    """What a download of it brings, in parts of 1,000 bytes."""
    target = folder / "fetched"
    download(web, upstream, target, lambda done, total: None, idle_timeout_s=5.0)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("etag", "modified", "version"),
    [
        ('W/"abc"', "", 'ETag=W/"abc"'),
        ("", "Tue, 05 May 2026 10:00:00 GMT", "Last-Modified=Tue, 05 May 2026 10:00:00 GMT"),
        ("", "", ""),
    ],
)
def test_the_version_is_what_the_server_names(
    etag: str, modified: str, version: str, web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    server.etag, server.modified = etag, modified
    upstream = find(web, uri)
    assert upstream == Upstream(uri, version, len(CONTENT))
    assert fetched(web, upstream, tmp_path) == CONTENT


def test_a_server_that_refuses_head_is_asked_for_the_file(
    web: Web, server: WebServer, uri: str
) -> None:
    for server.head_status in (403, 405, 501):
        assert find(web, uri) == Upstream(uri, 'ETag="one"', len(CONTENT))


def test_a_size_that_is_not_announced_is_unknown(
    web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    server.announces_size = False
    upstream = find(web, uri)
    assert upstream == Upstream(uri, 'ETag="one"', None)
    assert fetched(web, upstream, tmp_path) == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("etag", '"one"', '"two"'),
        ("modified", "Tue, 05 May 2026 10:00:00 GMT", "Wed, 06 May 2026 10:00:00 GMT"),
        ("etag", '"one"', ""),
    ],
)
def test_a_replaced_file_is_refused(
    ranges: bool,
    name: str,
    before: str,
    now: str,
    web: Web,
    server: WebServer,
    uri: str,
    tmp_path: Path,
) -> None:
    server.etag, server.ranges = "", ranges
    setattr(server, name, before)
    upstream = find(web, uri)
    setattr(server, name, now)
    with pytest.raises(VersionGoneError, match="has changed since it was pinned"):
        fetched(web, upstream, tmp_path)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("now", [CONTENT[:2500], CONTENT + b"x"])
def test_another_size_under_the_same_version_is_refused(
    ranges: bool, now: bytes, web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    server.ranges = ranges
    upstream = find(web, uri)
    server.content = now
    with pytest.raises(DataError, match="has changed since it was pinned"):
        fetched(web, upstream, tmp_path)


def test_a_file_that_vanished_is_named(
    web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    upstream = find(web, uri)
    server.statuses = [404] * 10
    with pytest.raises(DataError, match=r"has gone since it was pinned \(HTTP 404\)"):
        fetched(web, upstream, tmp_path)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "is not there .* check the address"),
        (403, r"put a login for 127\.0\.0\.1 into ~/\.netrc"),
        (400, r"can't be read \(HTTP 400\)"),
    ],
)
def test_a_refusal_says_what_to_do(
    status: int, message: str, web: Web, server: WebServer, uri: str
) -> None:
    server.statuses = [status] * 2
    with pytest.raises(DataError, match=message) as raised:
        find(web, uri)
    assert uri in str(raised.value)


def test_a_server_that_is_unwell_for_a_moment_is_asked_again(
    web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    server.statuses = [500]
    upstream = find(web, uri)
    server.statuses = [503, 429, 500]
    assert fetched(web, upstream, tmp_path) == CONTENT


def test_a_server_that_stays_unwell_is_named(web: Web, server: WebServer, uri: str) -> None:
    server.statuses = [500] * 1000
    with pytest.raises(DataError, match=r"can't be reached \(the server answers HTTP 500\)"):
        find(web, uri, timeout_s=0.5)


def test_a_port_where_nobody_listens_is_named(web: Web) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/fer2013.csv"
        with pytest.raises(DataError, match=r"can't be reached \(Connection refused\)") as raised:
            find(web, uri, timeout_s=0.2)
    assert uri in str(raised.value)


def test_where_a_redirection_leads_is_not_told(
    web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        signed = f"http://127.0.0.1:{taken.getsockname()[1]}/x?X-Amz-Signature=5ec2e7"
        server.moved = {"/latest": signed}
        with pytest.raises(DataError) as raised:
            find(web, f"{server.address}/latest", timeout_s=0.2)
    assert "5ec2e7" not in str(raised.value)
    server.moved = {"/latest": "/latest?token=5ec2e7", "/latest?token=5ec2e7": "/latest"}
    with pytest.raises(DataError, match="TooManyRedirects") as raised:
        find(web, f"{server.address}/latest")
    assert "5ec2e7" not in str(raised.value)


def test_a_login_comes_from_netrc(
    web: Web, server: WebServer, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password 5ec2e7\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    find(web, uri)
    assert server.asked[-1][3]["Authorization"].startswith("Basic ")


def test_bytes_are_kept_as_they_are_sent(
    web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    """A server that takes `faces.csv.gz` for a compressed `faces.csv` says so of its bytes."""
    server.headers = {"Content-Encoding": "gzip"}
    assert fetched(web, find(web, uri), tmp_path) == CONTENT
    assert {headers["Accept-Encoding"] for *_, headers in server.asked} == {"identity"}


@pytest.mark.parametrize(
    "query",
    [
        "?X-Amz-Algorithm=AWS4&X-Amz-Signature=5ec2e7",
        "?sv=2024&sig=5ec2e7",
        "?token=5ec2e7",
        "?key=5ec2e7",
        "?auth=5ec2e7",
        "#access_token=5ec2e7",
    ],
)
def test_a_secret_in_the_query_is_refused_and_not_repeated(
    query: str, web: Web, server: WebServer, uri: str
) -> None:
    with pytest.raises(DataError, match=r"looks like a secret, .*~/\.netrc") as raised:
        find(web, uri + query)
    assert "5ec2e7" not in str(raised.value)
    assert uri in str(raised.value)
    assert not server.asked


def test_a_harmless_query_is_kept(web: Web, server: WebServer, uri: str) -> None:
    query = "?design=a&author=b&keyword=c&signal=d&download=1&raw"
    assert find(web, uri + query).uri == uri + query
    assert server.asked[-1][1] == f"/fer2013.csv{query}"


def test_a_login_in_the_address_is_refused_and_not_repeated(web: Web, server: WebServer) -> None:
    uri = server.address.replace("://", "://me:5ec2e7@") + "/fer2013.csv"
    with pytest.raises(DataError, match=r"put it into ~/\.netrc") as raised:
        find(web, uri)
    assert "5ec2e7" not in str(raised.value)
    assert not server.asked


@pytest.mark.parametrize(
    "uri",
    ["https:///faces.csv", "http://host:port/x", "http://a b/x"],
)
def test_what_is_no_address_is_refused(uri: str, web: Web) -> None:
    with pytest.raises(DataError):
        find(web, uri, timeout_s=0.0)


def test_a_place_that_is_dropped_leaves_no_open_connection(uri: str) -> None:
    find(Web(), uri)
    gc.collect()  # an unclosed socket would warn, and a warning is an error here

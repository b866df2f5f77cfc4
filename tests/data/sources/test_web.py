"""Sources on real web servers: versions, refusals, and addresses that must not be committed."""

from __future__ import annotations

import gc
import re
import socket
from pathlib import Path

import pytest
from web_server import WebServer

from fer_pipeline.data.sources.downloads import Upstream, VersionGoneError, download, find
from fer_pipeline.data.sources.pins import FilePin
from fer_pipeline.data.sources.web import Web, require_allowed
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
    download(web, upstream, target, lambda done, total: None)
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
    server.statuses = [status]
    with pytest.raises(DataError, match=message) as raised:
        find(web, uri)
    assert uri in str(raised.value)


@pytest.mark.slow
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
        find(web, uri, tries=2)


def test_a_port_where_nobody_listens_is_named(web: Web) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/fer2013.csv"
        with pytest.raises(DataError, match=r"can't be reached \(Connection refused\)") as raised:
            find(web, uri, tries=1)
    assert uri in str(raised.value)


def test_where_a_redirection_leads_is_not_told(
    web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        signed = f"http://127.0.0.1:{taken.getsockname()[1]}/x?X-Amz-Signature=5ec2e7"
        server.moved = {"/latest": signed}
        with pytest.raises(DataError) as raised:
            find(web, f"{server.address}/latest", tries=1)
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
    assert server.asked[-1][1]["Authorization"].startswith("Basic ")


def test_bytes_are_kept_as_they_are_sent(
    web: Web, server: WebServer, uri: str, tmp_path: Path
) -> None:
    """A server that takes `faces.csv.gz` for a compressed `faces.csv` says so of its bytes."""
    server.headers = {"Content-Encoding": "gzip"}
    assert fetched(web, find(web, uri), tmp_path) == CONTENT
    assert {headers["Accept-Encoding"] for _, headers in server.asked} == {"identity"}


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
    with pytest.raises(DataError, match=r"looks like a secret .*~/\.netrc") as raised:
        find(web, uri + query)
    assert "5ec2e7" not in str(raised.value)
    assert uri in str(raised.value)
    assert not server.asked


def test_a_harmless_query_is_kept(web: Web, server: WebServer, uri: str) -> None:
    query = "?design=a&author=b&keyword=c&signal=d&download=1&raw"
    assert find(web, uri + query).uri == uri + query
    assert server.asked[-1][0] == f"/fer2013.csv{query}"


@pytest.mark.parametrize("login", ["me:5ec2e7", "me:5ec2e7/x", "me:12/5ec2e7", "5ec2e7"])
def test_a_login_in_the_address_is_refused_and_not_repeated(
    login: str, web: Web, server: WebServer
) -> None:
    uri = server.address.replace("://", f"://{login}@") + "/fer2013.csv"
    with pytest.raises(DataError, match=r"put a login into ~/\.netrc") as raised:
        find(web, uri)
    assert "5ec2e7" not in str(raised.value)
    assert not server.asked
    with pytest.raises(DataError, match="looks like a secret"):  # nor is it taken from a lock
        FilePin(uri, "", 1, "")


def test_who_refuses_after_a_redirection_is_named(
    web: Web, server: WebServer, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with WebServer() as other:
        other.statuses = [403]
        elsewhere = other.address.replace("127.0.0.1", "localhost")
        server.moved = {"/fer2013.csv": f"{elsewhere}/x?X-Amz-Signature=5ec2e7"}
        with pytest.raises(DataError, match=r"\(HTTP 403 from localhost\): .* for localhost into"):
            find(web, uri)
    assert [one.message for one in caplog.records] == [f"{uri} is redirected to localhost"]


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("https://93.184.216.34/x", "http://93.184.216.34/x", "from https to http, which is ref"),
        ("https://93.184.216.34/x", "https://127.0.0.1/x", "to 127.0.0.1, a loopback address"),
        ("https://93.184.216.34/x", "https://localhost/x", "to localhost, a loopback address"),
        ("https://93.184.216.34/x", "https://[::ffff:10.0.0.1]/x", "a private address"),
        ("http://10.0.0.1/x", "http://169.254.169.254/latest", "a link-local address"),
        ("http://127.0.0.1/x", "http://192.168.0.1/x", "to 192.168.0.1, a private address"),
        ("https://93.184.216.34/x", "ftp://93.184.216.34/x", "from https to ftp"),
        ("http://93.184.216.34/x", "https://93.184.216.35/x", ""),
        ("http://127.0.0.1/x", "http://[::1]/x", ""),
        ("http://10.0.0.1/x", "http://10.0.0.2/x", ""),
        ("https://93.184.216.34/x", "https://no-such-host.invalid/x", ""),
    ],
)
def test_a_redirection_leads_into_no_other_network_and_not_out_of_https(
    source: str, target: str, says: str
) -> None:
    if not says:
        require_allowed(source, source, target)
        return
    with pytest.raises(DataError, match=re.escape(says)) as raised:
        require_allowed(source, source, target)
    assert str(raised.value).startswith(source)


def test_a_server_may_not_send_us_into_a_network_that_it_is_not_in(
    web: Web, server: WebServer, uri: str
) -> None:
    server.moved = {"/fer2013.csv": "http://169.254.169.254/latest/meta-data"}
    with pytest.raises(DataError, match="a link-local address, which is refused"):
        find(web, uri)


@pytest.mark.parametrize("announced", [True, False])
def test_a_download_has_a_limit_that_can_be_set(
    announced: bool,
    web: Web,
    server: WebServer,
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.announces_size = announced
    monkeypatch.setenv("FER_MAX_DOWNLOAD_GIB", "1e-6")  # 1,074 bytes
    upstream = Upstream(uri, 'ETag="one"', len(CONTENT) if announced else None)
    with pytest.raises(DataError, match="and 1e-6 GiB are allowed: set FER_MAX_DOWNLOAD_GIB"):
        fetched(web, upstream, tmp_path)
    assert server.sent <= len(CONTENT)
    monkeypatch.setenv("FER_MAX_DOWNLOAD_GIB", "many")
    with pytest.raises(DataError, match="'many', no number of GiB"):
        fetched(web, upstream, tmp_path)
    monkeypatch.delenv("FER_MAX_DOWNLOAD_GIB")
    assert fetched(web, upstream, tmp_path) == CONTENT


@pytest.mark.parametrize("uri", ["https:///faces.csv", "http://host:port/x", "http://a b/x"])
def test_what_is_no_address_is_refused(uri: str, web: Web) -> None:
    with pytest.raises(DataError):
        find(web, uri, tries=1)


def test_a_place_that_is_dropped_leaves_no_open_connection(uri: str) -> None:
    find(Web(), uri)
    gc.collect()  # an unclosed socket would warn, and a warning is an error here

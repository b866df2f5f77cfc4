"""Sources in buckets of a real S3 server, which is also killed and started again."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server

from fer_pipeline.data.sources.downloads import Place, Upstream, VersionGoneError, download, find
from fer_pipeline.data.sources.s3 import S3
from fer_pipeline.data.sources.source import place_of
from fer_pipeline.errors import DataError

pytestmark = pytest.mark.slow

PART = 1 << 20
CONTENT = random.Random(7).randbytes(16 * PART + 3)
PLAIN, VERSIONED = "plain", "versioned"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), (PLAIN, VERSIONED)) as server:
        client = server.client()
        client.put_bucket_versioning(
            Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"}
        )
        client.close()
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, as the environment says."""
    for name in filter(lambda name: name.startswith("AWS_"), list(os.environ)):
        monkeypatch.delenv(name)
    for name, value in running.env().items():
        monkeypatch.setenv(name, value)
    return running


@pytest.fixture
def client(server: S3Server) -> Iterator[Any]:
    """The owner of the buckets."""
    found = server.client()
    yield found
    found.close()


@pytest.fixture
def s3(server: S3Server) -> Place:
    place = place_of("s3://plain/key")
    assert isinstance(place, S3)
    return place


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "faces.csv"


def silent(done: int, total: int | None) -> None:
    pass


def fetched(s3: Place, upstream: Upstream, target: Path) -> bytes:
    download(s3, upstream, target, silent)
    return target.read_bytes()


def test_a_bucket_that_keeps_versions_gives_the_pinned_one_after_a_newer_upload(
    s3: Place, client: Any, target: Path
) -> None:
    uri = f"s3://{VERSIONED}/fer 2013/ä?#+%20.csv"
    key = uri.split("/", 3)[3]
    first = client.put_object(Bucket=VERSIONED, Key=key, Body=b"first")
    pinned = find(s3, uri)
    assert pinned == Upstream(uri, f"VersionId={first['VersionId']}", 5)
    client.put_object(Bucket=VERSIONED, Key=key, Body=b"the second")
    moved = find(s3, uri)
    assert (moved.version, moved.size) != (pinned.version, pinned.size)
    client.delete_object(Bucket=VERSIONED, Key=key)
    assert fetched(s3, pinned, target) == b"first"
    assert fetched(s3, moved, target) == b"the second"
    with pytest.raises(DataError, match="is not there"):
        find(s3, uri)


def test_a_bucket_without_versions_refuses_the_pinned_one_after_a_newer_upload(
    s3: Place, client: Any, target: Path
) -> None:
    uri = f"s3://{PLAIN}/overwritten"
    first = client.put_object(Bucket=PLAIN, Key="overwritten", Body=b"first")
    pinned = find(s3, uri)
    assert pinned == Upstream(uri, f"ETag={first['ETag']}", 5)
    assert fetched(s3, pinned, target) == b"first"
    target.unlink()
    client.put_object(Bucket=PLAIN, Key="overwritten", Body=b"other")
    with pytest.raises(VersionGoneError, match="has changed since it was pinned"):
        fetched(s3, pinned, target)
    assert not target.exists()


def test_a_bucket_that_stopped_keeping_versions_is_pinned_by_content(
    s3: Place, client: Any, target: Path
) -> None:
    """Its uploads are all the version "null", and replace each other."""
    client.create_bucket(Bucket="suspended")
    for status in ("Enabled", "Suspended"):
        client.put_bucket_versioning(Bucket="suspended", VersioningConfiguration={"Status": status})
    client.put_object(Bucket="suspended", Key="k", Body=b"first")
    pinned = find(s3, "s3://suspended/k")
    assert pinned.version.startswith("ETag=")
    client.put_object(Bucket="suspended", Key="k", Body=b"other")
    with pytest.raises(DataError, match="has changed since it was pinned"):
        fetched(s3, pinned, target)


def test_an_object_stored_as_compressed_is_kept_as_it_is(
    s3: Place, client: Any, target: Path
) -> None:
    client.put_object(Bucket=PLAIN, Key="x.gz", Body=b"as it is", ContentEncoding="gzip")
    assert fetched(s3, find(s3, f"s3://{PLAIN}/x.gz"), target) == b"as it is"


@pytest.mark.parametrize("bucket", [PLAIN, VERSIONED])
def test_an_object_that_was_deleted_since_is_named(
    bucket: str, s3: Place, client: Any, target: Path
) -> None:
    client.put_object(Bucket=bucket, Key="vanishing", Body=b"1")
    pinned = find(s3, f"s3://{bucket}/vanishing")
    kind, _, value = pinned.version.partition("=")
    only = {"VersionId": value} if kind == "VersionId" else {}
    client.delete_object(Bucket=bucket, Key="vanishing", **only)
    with pytest.raises(DataError, match=f"s3://{bucket}/vanishing has gone since it was pinned"):
        fetched(s3, pinned, target)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no-such-bucket/key", "no such bucket: check its name and AWS_ENDPOINT_URL"),
        (f"s3://{PLAIN}/no/such/key", r"is not there \(.*: NoSuchKey\): check the address"),
        (f"s3://{PLAIN}", "names no object: write s3://bucket/key"),
        ("s3://not a bucket/key", "names no object"),
    ],
)
def test_an_address_that_leads_nowhere_is_named(uri: str, message: str, s3: Place) -> None:
    with pytest.raises(DataError, match=message) as raised:
        find(s3, uri)
    assert uri in str(raised.value)


def test_credentials_in_the_address_are_refused_and_not_repeated(s3: Place) -> None:
    with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID") as raised:
        find(s3, "s3://AKIA:5ec2e7@bucket/key")
    assert "5ec2e7" not in str(raised.value)
    assert "AKIA" not in str(raised.value)


def test_a_pin_of_another_kind_of_server_is_refused(s3: Place, target: Path) -> None:
    with pytest.raises(DataError, match="no version of S3"):
        fetched(s3, Upstream(f"s3://{PLAIN}/key", "Last-Modified=yesterday", 5), target)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, r": InvalidAccessKeyId\): check AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "5ec2e7"}, r": SignatureDoesNotMatch\): check AWS_A"),
        ({"AWS_PROFILE": "unknown-profile"}, "unknown-profile"),
        ({"AWS_ENDPOINT_URL": "me:5ec2e7@nowhere"}, "AWS_ENDPOINT_URL is no address"),
    ],
)
def test_a_wrong_environment_is_explained_without_its_secrets(
    wrong: dict[str, str | None], message: str, s3: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"], "5ec2e7")
    for name, value in wrong.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=message) as raised:
        find(s3, f"s3://{PLAIN}/key")
    assert not [secret for secret in secrets if secret in str(raised.value)]
    assert "\n" not in str(raised.value)


def test_an_endpoint_where_nobody_listens_is_named(
    s3: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        with pytest.raises(DataError, match=f"can't be reached .no proper answer from {address}"):
            find(s3, f"s3://{PLAIN}/key", tries=1)


@pytest.fixture
def large(s3: Place, client: Any) -> Upstream:
    client.put_object(Bucket=PLAIN, Key="large", Body=CONTENT)
    return find(s3, f"s3://{PLAIN}/large")


def test_a_server_that_dies_and_comes_back_costs_no_byte(
    s3: Place, large: Upstream, server: S3Server, target: Path
) -> None:
    seen: list[int] = []

    def crash(done: int, total: int | None) -> None:
        if done >= 2 * PART and max(seen) < 2 * PART:
            server.kill()
            server.start()
        seen.append(done)

    download(s3, large, target, crash, tries=40)
    assert target.read_bytes() == CONTENT
    assert seen == sorted(seen)  # it never went back

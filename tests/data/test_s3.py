"""Objects of a real S3 server: found, pinned to a version, fetched across crashes, refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3_server import S3Server, free_port

from fer_pipeline.data.downloads import download, find, place_of
from fer_pipeline.data.s3 import S3
from fer_pipeline.data.upstream import Upstream
from fer_pipeline.errors import DataError

PART = 1 << 18
CONTENT = np.random.default_rng(0).bytes(20 * PART + 123)


def silent(done: int, total: int | None) -> None:
    pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "data", ("plain", "versioned"))
    server.start()
    client = server.client()
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    client.close()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with an environment that leads to it and to no one's own account."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    return server


def put(server: S3Server, bucket: str, key: str, content: bytes) -> str:
    client = server.client()
    client.put_object(Bucket=bucket, Key=key, Body=content)
    client.close()
    return f"s3://{bucket}/{key}"


def get(uri: str, target: Path, upstream: Upstream | None = None, patience_s: float = 2.0) -> bytes:
    place = S3()
    upstream = upstream or find(place, uri, patience_s)
    download(place, upstream, target, silent, PART, patience_s)
    return target.read_bytes()


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 5 * PART])
def test_an_object_arrives_byte_for_byte(size: int, s3: S3Server, tmp_path: Path) -> None:
    uri = put(s3, "plain", "a folder/ä+b.csv", CONTENT[:size])
    assert get(uri, tmp_path / "file") == CONTENT[:size]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_versioned_object_is_known_by_its_version_and_stays_readable(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = put(s3, "versioned", "fer.csv", b"old bytes")
    old = find(S3(), uri)
    assert old.version.startswith("VersionId=")
    assert old.size == 9
    put(s3, "versioned", "fer.csv", b"new")
    new = find(S3(), uri)
    assert new.version != old.version
    assert get(uri, tmp_path / "old", old) == b"old bytes"
    assert get(uri, tmp_path / "new", new) == b"new"


def test_a_versioned_object_survives_its_deletion_by_its_version(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = put(s3, "versioned", "deleted.csv", b"bytes")
    pinned = find(S3(), uri)
    client = s3.client()
    client.delete_object(Bucket="versioned", Key="deleted.csv")
    with pytest.raises(DataError, match="there is no such object"):
        find(S3(), uri)
    assert get(uri, tmp_path / "file", pinned) == b"bytes"
    client.delete_object(
        Bucket="versioned", Key="deleted.csv", VersionId=pinned.version.partition("=")[2]
    )
    client.close()
    with pytest.raises(DataError, match="the pinned version is gone"):
        get(uri, tmp_path / "again", pinned)


def test_an_unversioned_object_is_known_by_its_etag_and_refused_once_it_changed(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = put(s3, "plain", "fer.csv", CONTENT)
    pinned = find(S3(), uri)
    assert pinned.version.startswith("ETag=")
    put(s3, "plain", "fer.csv", CONTENT[::-1])
    assert find(S3(), uri).version != pinned.version
    with pytest.raises(DataError) as refused:
        get(uri, tmp_path / "file", pinned)
    assert "has changed since it was pinned" in str(refused.value)
    assert f"fer source pin {uri}" in str(refused.value)
    assert not (tmp_path / "file").exists()


def test_an_object_that_vanished_since_it_was_pinned_is_refused(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = put(s3, "plain", "gone.csv", CONTENT)
    pinned = find(S3(), uri)
    client = s3.client()
    client.delete_object(Bucket="plain", Key="gone.csv")
    client.close()
    with pytest.raises(DataError, match="the pinned version is gone"):
        get(uri, tmp_path / "file", pinned)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://nowhere/fer.csv", "no such"),
        ("s3://plain/nothing.csv", "there is no such object"),
        ("s3://plain", "names no object"),
        ("s3://plain/", "names no object"),
        ("s3://plain/folder/", "names no object"),
    ],
)
def test_what_is_not_there_is_refused_by_name(uri: str, message: str, s3: S3Server) -> None:
    with pytest.raises(DataError) as refused:
        find(S3(), uri)
    assert str(refused.value).startswith(uri)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_without_showing_them(
    name: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(s3, "plain", "fer.csv", b"bytes")
    monkeypatch.setenv(name, "hunter2hunter2")
    with pytest.raises(DataError, match="access denied") as refused:
        find(S3(), uri)
    assert "AWS_SECRET_ACCESS_KEY" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_missing_credentials_are_asked_for(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DataError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        find(S3(), "s3://plain/fer.csv")


def test_an_unknown_profile_is_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(DataError, match=r"S3 can't be used: .*nobody"):
        find(S3(), "s3://plain/fer.csv")


def test_a_server_that_is_not_there_is_given_up(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DataError, match=r"s3://plain/fer\.csv can't be reached"):
        find(S3(), "s3://plain/fer.csv", patience_s=0.5)


def test_a_download_goes_on_after_the_server_was_killed(s3: S3Server, tmp_path: Path) -> None:
    uri = put(s3, "plain", "large.csv", CONTENT)
    place = S3()
    upstream = find(place, uri)
    seen: list[int] = []

    def crash_once(done: int, total: int | None) -> None:
        if done >= 5 * PART and max(seen, default=0) < 5 * PART:
            s3.kill()
        seen.append(done)

    with pytest.raises(DataError) as broken:
        download(place, upstream, tmp_path / "file", crash_once, PART, patience_s=0.5)
    assert "run it again to go on from there" in str(broken.value)
    kept = max(seen)
    assert 5 * PART <= kept < len(CONTENT)
    assert not (tmp_path / "file").exists()

    s3.start()
    again: list[int] = []
    download(place, upstream, tmp_path / "file", lambda done, _: again.append(done), PART)
    assert again[0] == kept
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_download_waits_for_a_server_that_comes_back(s3: S3Server, tmp_path: Path) -> None:
    uri = put(s3, "plain", "patient.csv", CONTENT)
    place = S3()
    upstream = find(place, uri)
    starts: list[int] = []

    def crash_and_come_back(done: int, total: int | None) -> None:
        if not starts and done >= 5 * PART:
            s3.kill()
            s3.start()
            starts.append(done)

    download(place, upstream, tmp_path / "file", crash_and_come_back, PART, patience_s=60)
    assert starts
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_version_never_goes_on_a_partial_file(s3: S3Server, tmp_path: Path) -> None:
    uri = put(s3, "plain", "moved.csv", CONTENT)
    place = S3()

    class EnoughError(Exception):
        pass

    def stop_early(done: int, total: int | None) -> None:
        if done:
            raise EnoughError

    with pytest.raises(EnoughError):
        download(place, find(place, uri), tmp_path / "file", stop_early, PART)
    put(s3, "plain", "moved.csv", CONTENT[::-1])
    assert get(uri, tmp_path / "file") == CONTENT[::-1]


@pytest.mark.parametrize("uri", ["ftp://host/fer.csv", "gs://bucket/fer.csv"])
def test_unknown_kinds_of_places_are_refused(uri: str) -> None:
    with pytest.raises(DataError, match="only https://, http://, s3://, paths and 'sample'"):
        place_of(uri)

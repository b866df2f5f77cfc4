"""A source that moves on: what was before, what is there now, and what was downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from edition_files import assert_same_faces, write
from source_files import CSV, FACES, OTHER_CSV, THIRD_CSV, refusal, sha256
from web_server import WebServer

from fer_pipeline.data.sources.pins import Earlier, FilePin, Pin
from fer_pipeline.data.sources.source import Fetcher, read_pinned, upstream_moved
from fer_pipeline.params.schema import DataParams


def test_new_bytes_have_the_last_ones_before_them(tmp_path: Path, take: Callable[..., Pin]) -> None:
    path = write(CSV, tmp_path / "a.csv")
    first = take(path)
    assert first.profile is not None
    second = take(write(OTHER_CSV, path), first)
    assert second.previous == Earlier(first.source, first.profile)
    third = take(write(THIRD_CSV, path), second)
    assert third.previous is not None
    assert third.previous.source == second.source


def test_the_same_bytes_again_keep_what_was_before_them(
    tmp_path: Path, take: Callable[..., Pin]
) -> None:
    path = write(CSV, tmp_path / "a.csv")
    first = take(path)
    assert take(path, first).previous is None
    second = take(write(OTHER_CSV, path), first)
    assert take(path, second) == second
    elsewhere = take(write(OTHER_CSV, tmp_path / "b.csv"), second)
    assert elsewhere.previous == second.previous


def test_what_was_before_survives_a_visit_to_the_sample(
    tmp_path: Path, take: Callable[..., Pin]
) -> None:
    path = write(CSV, tmp_path / "a.csv")
    first = take(path)
    visit = take("sample", first)
    assert visit.previous is not None
    assert visit.previous.source == first.source
    assert take("sample", visit) == visit
    assert take(write(OTHER_CSV, path), visit).previous == visit.previous


def test_a_local_file_has_moved_on_once_its_bytes_differ(
    tmp_path: Path, take: Callable[..., Pin]
) -> None:
    path = write(CSV, tmp_path / "fer.csv")
    pin = take(path).source
    os.utime(path, (0, 0))
    assert upstream_moved(pin) == ""
    write(OTHER_CSV, path)
    assert upstream_moved(pin) == (f"sha256 {sha256(CSV)[:12]}…, now {sha256(OTHER_CSV)[:12]}…")
    path.unlink()
    assert refusal(lambda: upstream_moved(pin)).startswith(f"{path} is missing")


@pytest.fixture
def uri(server: WebServer) -> str:
    server.content = CSV
    return f"{server.address}/fer.csv"


def test_a_file_from_a_server_is_pinned_and_downloaded_once(
    server: WebServer, uri: str, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    pin = take(uri)
    assert pin.source == FilePin(uri, 'ETag="one"', len(CSV), sha256(CSV))
    server.asked.clear()
    assert_same_faces(read_pinned(pin, data, fetcher)[0], FACES)
    assert not server.asked
    assert take(uri, pin) == pin
    assert len(server.asked) == 1


def test_on_a_fresh_machine_the_pinned_file_is_fetched_and_again_if_the_disk_changed_it(
    uri: str, take: Callable[..., Pin], data: DataParams, tmp_path: Path
) -> None:
    pin = take(uri)
    seen: list[tuple[int, int | None]] = []
    fresh = Fetcher(tmp_path / "fresh", lambda done, total: seen.append((done, total)))
    assert_same_faces(read_pinned(pin, data, fresh)[0], FACES)
    assert seen[-1] == (len(CSV), len(CSV))
    (kept,) = (tmp_path / "fresh").rglob("*.csv")
    kept.write_bytes(CSV[:-1] + b"x")
    assert_same_faces(read_pinned(pin, data, fresh)[0], FACES)
    assert kept.read_bytes() == CSV


def test_other_bytes_under_the_pinned_version_are_refused_and_not_kept(
    server: WebServer, uri: str, take: Callable[..., Pin], data: DataParams, tmp_path: Path
) -> None:
    pin = take(uri)
    server.content = CSV[:-1] + b" "
    fresh = Fetcher(tmp_path / "fresh", lambda done, total: None)
    assert refusal(lambda: read_pinned(pin, data, fresh)) == (
        f"{uri} is not what was pinned (sha256 {sha256(CSV)[:12]}…, now "
        f"{sha256(server.content)[:12]}…): run 'fer source pin {uri}' to accept what it is now"
    )
    assert not list((tmp_path / "fresh").rglob("*.csv"))
    server.etag = '"two"'
    gone = refusal(lambda: read_pinned(pin, data, fresh))
    assert gone.endswith(f": run 'fer source pin {uri}' to take what is there now")


def test_a_new_version_on_the_server_is_noticed_and_taken_only_when_asked(
    server: WebServer, uri: str, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    pin = take(uri)
    assert upstream_moved(pin.source) == ""
    server.content = CSV + b"\n"
    assert upstream_moved(pin.source) == f"{len(CSV):,} bytes, now {len(CSV) + 1:,}"
    server.content, server.etag = OTHER_CSV, '"two"'
    assert upstream_moved(pin.source) == 'version ETag="one", now ETag="two"'
    assert_same_faces(read_pinned(pin, data, fetcher)[0], FACES)
    newer = take(uri, pin)
    assert newer.source.sha256 == sha256(OTHER_CSV)
    assert newer.previous is not None
    assert newer.previous.source == pin.source

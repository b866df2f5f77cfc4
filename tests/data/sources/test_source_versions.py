"""A source that moves on: what was before, what is there now, and what was downloaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from edition_files import (
    assert_same_faces,
    write,
)
from source_files import CSV, FACES, OTHER_CSV, THIRD_CSV, refusal, sha256

from fer_pipeline.data.sources.pins import Earlier, FilePin, Pin
from fer_pipeline.data.sources.source import (
    Fetcher,
    read_pinned,
    upstream_moved,
)
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


class Handler(SimpleHTTPRequestHandler):
    """Keeps a list of what was asked for."""

    asked: list[str]

    def log_request(self, code: object = "-", size: object = "-") -> None:
        self.asked.append(f"{self.command} {self.path}")


class Server:
    """A folder on a real web server that tells versions apart by their time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        handler = type("Logged", (Handler,), {"asked": self.asked})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def put(self, name: str, content: bytes, time: int = 0) -> str:
        """The address of a new file, or of a new version."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time, time))
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "www")
    yield server
    server.stop()


def test_a_file_from_a_server_is_pinned_by_its_version_and_bytes(
    server: Server, take: Callable[..., Pin]
) -> None:
    uri = server.put("fer.csv", CSV)
    assert take(uri).source == FilePin(
        uri, "Last-Modified=Thu, 01 Jan 1970 00:00:00 GMT", len(CSV), sha256(CSV)
    )


def test_what_was_downloaded_is_not_asked_for_again(
    server: Server, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    pin = take(server.put("fer.csv", CSV))
    asked = list(server.asked)
    assert_same_faces(read_pinned(pin, data, fetcher)[0], FACES)
    assert server.asked == asked
    assert take(pin.source.uri, pin) == pin
    assert server.asked == [*asked, "HEAD /fer.csv"]


def test_on_a_fresh_machine_the_pinned_file_is_fetched(
    server: Server, take: Callable[..., Pin], data: DataParams, tmp_path: Path
) -> None:
    pin = take(server.put("fer.csv", CSV))
    seen: list[tuple[int, int | None]] = []
    fresh = Fetcher(tmp_path / "fresh", lambda done, total: seen.append((done, total)))
    assert_same_faces(read_pinned(pin, data, fresh)[0], FACES)
    assert seen[-1] == (len(CSV), len(CSV))
    assert [path.read_bytes() for path in (tmp_path / "fresh").rglob("*.csv")] == [CSV]


def test_a_download_that_the_disk_has_changed_is_fetched_again(
    server: Server, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher, tmp_path: Path
) -> None:
    pin = take(server.put("fer.csv", CSV))
    (kept,) = (tmp_path / "downloads").rglob("*.csv")
    kept.write_bytes(CSV[:-1] + b"x")
    assert_same_faces(read_pinned(pin, data, fetcher)[0], FACES)
    assert kept.read_bytes() == CSV


def test_other_bytes_under_the_pinned_version_are_refused_and_not_kept(
    server: Server, take: Callable[..., Pin], data: DataParams, tmp_path: Path
) -> None:
    uri = server.put("fer.csv", CSV)
    pin = take(uri)
    changed = CSV[:-1] + b" "
    server.put("fer.csv", changed)
    fresh = Fetcher(tmp_path / "fresh", lambda done, total: None)
    assert refusal(lambda: read_pinned(pin, data, fresh)) == (
        f"{uri} is not what was pinned (sha256 {sha256(CSV)[:12]}…, now {sha256(changed)[:12]}…): "
        f"run 'fer source pin {uri}' to accept what it is now"
    )
    assert not list((tmp_path / "fresh").rglob("*.csv"))


def test_a_new_version_on_the_server_is_noticed_and_taken_only_when_asked(
    server: Server, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    uri = server.put("fer.csv", CSV)
    pin = take(uri)
    assert upstream_moved(pin.source) == ""
    server.put("fer.csv", OTHER_CSV, time=1)
    assert upstream_moved(pin.source) == (
        "version Last-Modified=Thu, 01 Jan 1970 00:00:00 GMT, "
        "now Last-Modified=Thu, 01 Jan 1970 00:00:01 GMT"
    )
    assert_same_faces(read_pinned(pin, data, fetcher)[0], FACES)
    newer = take(uri, pin)
    assert newer.source.sha256 == sha256(OTHER_CSV)
    assert newer.previous is not None
    assert newer.previous.source == pin.source


def test_another_size_under_the_same_version_is_noticed(
    server: Server, take: Callable[..., Pin]
) -> None:
    pin = take(server.put("fer.csv", CSV))
    server.put("fer.csv", CSV + b"\n")
    assert upstream_moved(pin.source) == f"{len(CSV):,} bytes, now {len(CSV) + 1:,}"

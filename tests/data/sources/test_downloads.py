"""Downloads over real connections: whatever breaks, the right bytes arrive, and few twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import WITHIN_S
from web_server import WebServer

from fer_pipeline.data.sources.downloads import Upstream, download, find
from fer_pipeline.data.sources.web import Web
from fer_pipeline.errors import DataError

PART = 1 << 16
CONTENT = random.Random(5).randbytes(20 * PART + 17)


class Enough(BaseException):
    """Raised out of a progress callback, as Ctrl-C would be."""


class Record:
    """What a download said of its progress."""

    def __init__(self, enough: int | None = None) -> None:
        self.seen: list[int] = []
        self._enough = enough

    def __call__(self, done: int, total: int | None) -> None:
        self.seen.append(done)
        if self._enough is not None and done >= self._enough:
            raise Enough


@pytest.fixture
def server(server: WebServer) -> WebServer:
    server.content = CONTENT
    return server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "faces.csv"


def partials(target: Path) -> list[Path]:
    found = target.parent.glob(f".partial-*-{target.name}")
    return [path for path in found if path.suffix != ".lock"]


def fetch(web: Web, server: WebServer, target: Path, tries: int = 10) -> Record:
    record = Record()
    upstream = find(web, f"{server.address}/faces.csv")
    download(web, upstream, target, record, tries)
    return record


def interrupted(web: Web, server: WebServer, target: Path, at: int) -> int:
    """Break a download off as soon as so much is there; gives how much that was."""
    upstream = find(web, f"{server.address}/faces.csv")
    with pytest.raises(Enough):
        download(web, upstream, target, Record(enough=at))
    (partial,) = partials(target)
    return partial.stat().st_size


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[WebServer, Web]]:
    with WebServer() as running:
        place = Web()
        yield running, place


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    size=st.integers(0, 600),
    breaks=st.lists(st.integers(1, 70), max_size=3),
    stops=st.lists(st.integers(0, 600), max_size=2),
    ranges=st.booleans(),
)
def test_every_byte_arrives_whatever_the_size_the_breaks_and_the_interruptions(
    shared: tuple[WebServer, Web], size: int, breaks: list[int], stops: list[int], ranges: bool
) -> None:
    server, web = shared
    server.content = random.Random(size).randbytes(size)
    server.ranges, server.breaks = ranges, list(breaks)
    upstream = Upstream(f"{server.address}/faces.csv", 'ETag="one"', len(server.content))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "faces.csv"
        for stop in stops:
            with suppress(Enough):
                download(web, upstream, target, Record(enough=stop))
        download(web, upstream, target, Record())
        assert target.read_bytes() == server.content
        assert not partials(target)


def test_a_break_costs_only_what_was_on_its_way(web: Web, server: WebServer, target: Path) -> None:
    server.breaks, record = [PART // 2] * 12, Record()
    upstream = Upstream(f"{server.address}/faces.csv", 'ETag="one"', len(CONTENT))
    download(web, upstream, target, record)
    assert target.read_bytes() == CONTENT
    assert record.seen == sorted(record.seen)
    assert server.sent == len(CONTENT)


def test_a_partial_file_of_another_version_is_not_continued(
    web: Web, server: WebServer, target: Path
) -> None:
    interrupted(web, server, target, at=5 * PART)
    server.etag, server.content = '"two"', CONTENT[::-1]
    record = fetch(web, server, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert record.seen[0] == 0


@pytest.mark.parametrize("habit", ["ranges", "announces_size", "etag"])
def test_a_server_that_can_not_go_on_is_asked_for_the_whole_again(
    habit: str, web: Web, server: WebServer, target: Path
) -> None:
    setattr(server, habit, "" if habit == "etag" else False)
    server.breaks = [PART] * 2
    fetch(web, server, target)
    assert target.read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(
    web: Web, server: WebServer, target: Path
) -> None:
    server.ranges, server.breaks = False, [PART] * 100
    with pytest.raises(DataError, match=r"broke off .* run the same again"):
        fetch(web, server, target, tries=2)
    assert not target.exists()


def test_after_the_last_try_it_says_what_is_there_and_a_later_call_goes_on(
    web: Web, server: WebServer, target: Path
) -> None:
    upstream = find(web, f"{server.address}/faces.csv")
    server.breaks = [7 * PART]

    def break_for_ever(done: int, total: int | None) -> None:
        if done >= PART and not server.statuses:
            server.statuses = [503] * 10_000

    with pytest.raises(DataError) as raised:
        download(web, upstream, target, break_for_ever, tries=2)
    (partial,) = partials(target)
    there = partial.stat().st_size
    assert 0 < there < len(CONTENT)
    assert f"{there:,} bytes are in {partial}" in str(raised.value)
    assert "HTTP 503" in str(raised.value)
    server.statuses = []
    record = fetch(web, server, target)
    assert record.seen[0] == there
    assert target.read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_thrown_away(
    web: Web, server: WebServer, target: Path
) -> None:
    interrupted(web, server, target, at=PART)
    (partial,) = partials(target)
    partial.write_bytes(bytes(len(CONTENT) + 1))
    fetch(web, server, target)
    assert target.read_bytes() == CONTENT


def test_a_full_disk_is_named(web: Web, server: WebServer, target: Path) -> None:
    interrupted(web, server, target, at=PART)
    (partial,) = partials(target)
    partial.unlink()
    partial.symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device") as raised:
        fetch(web, server, target)
    assert str(partial) in str(raised.value)


def test_two_processes_do_not_write_the_same_file(
    web: Web, server: WebServer, target: Path
) -> None:
    upstream = find(web, f"{server.address}/faces.csv")
    refused = []

    def meanwhile(done: int, total: int | None) -> None:
        if not refused:
            with pytest.raises(DataError, match="another process") as raised:
                download(web, upstream, target, Record())
            refused.append(raised.value)

    download(web, upstream, target, meanwhile)
    assert refused
    assert target.read_bytes() == CONTENT


SCRIPT = """
import os, signal, sys
from pathlib import Path
from fer_pipeline.data.sources import web
from fer_pipeline.data.sources.downloads import download, find
web._TIMEOUT_S = (3600, 3600)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
place = web.Web()
address, target, enough = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
def progress(done, total):
    print(done, flush=True)
    if done >= enough:
        os.kill(os.getpid(), signal.SIGKILL)
download(place, find(place, address), target, progress)
"""


def start_process(server: WebServer, target: Path, enough: int) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, f"{server.address}/faces.csv", str(target), str(enough)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_another_process_goes_on_where_a_killed_one_stopped(
    web: Web, server: WebServer, target: Path
) -> None:
    with start_process(server, target, 6 * PART) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    record = fetch(web, server, target)
    assert record.seen[0] >= 6 * PART
    assert target.read_bytes() == CONTENT


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_silent_server(server: WebServer, target: Path) -> None:
    server.silent_from = 2 * PART
    with start_process(server, target, len(CONTENT)) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < server.silent_from:
            pass
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=WITHIN_S)  # its own time-out is an hour
        finally:
            process.kill()
    assert "KeyboardInterrupt" in said
    (partial,) = partials(target)
    assert partial.stat().st_size == server.silent_from

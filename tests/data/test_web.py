"""Files of a real web server: found, pinned to a version, fetched across breaks, refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_server import free_port
from web_server import Behaviour, serve

from fer_pipeline.data.downloads import download, find, place_of
from fer_pipeline.data.upstream import Upstream
from fer_pipeline.data.web import Web
from fer_pipeline.errors import DataError

PART = 1 << 12
CONTENT = np.random.default_rng(0).bytes(10 * PART + 7)


def silent(done: int, total: int | None) -> None:
    pass


def get(uri: str, target: Path, upstream: Upstream | None = None, patience_s: float = 5.0) -> bytes:
    place = Web()
    upstream = upstream or find(place, uri, patience_s)
    download(place, upstream, target, silent, PART, patience_s)
    return target.read_bytes()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(size=st.integers(1, 4 * PART + 2), ranges=st.booleans())
def test_a_file_of_any_size_arrives_byte_for_byte(size: int, ranges: bool, tmp_path: Path) -> None:
    with serve(Behaviour(CONTENT[:size], ranges=ranges)) as address:
        assert get(f"{address}/file", tmp_path / "file") == CONTENT[:size]


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"ETag": '"abc"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, 'ETag="abc"'),
        ({"ETag": 'W/"abc"'}, 'ETag=W/"abc"'),
        (
            {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            "Last-Modified=Mon, 01 Jan 2024 00:00:00 GMT",
        ),
        ({}, ""),
    ],
)
def test_a_version_is_what_the_server_calls_it(
    headers: dict[str, str], version: str, tmp_path: Path
) -> None:
    with serve(Behaviour(CONTENT, headers)) as address:
        found = find(Web(), f"{address}/file")
        assert (found.version, found.size) == (version, len(CONTENT))
        assert get(f"{address}/file", tmp_path / "file") == CONTENT


def test_a_server_that_refuses_head_is_asked_by_get(tmp_path: Path) -> None:
    with serve(Behaviour(CONTENT, refuse_head=True)) as address:
        assert find(Web(), f"{address}/file").size == len(CONTENT)
        assert get(f"{address}/file", tmp_path / "file") == CONTENT


def test_redirects_are_followed(tmp_path: Path) -> None:
    with serve(Behaviour(CONTENT)) as address:
        assert get(f"{address}/moved", tmp_path / "file") == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_survives_broken_connections(ranges: bool, tmp_path: Path) -> None:
    behaviour = Behaviour(CONTENT, ranges=ranges, break_after=[100, 0, 3000])
    with serve(behaviour) as address:
        assert get(f"{address}/file", tmp_path / "file", patience_s=30) == CONTENT
    assert behaviour.break_after == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_has_come_is_not_asked_for_again(tmp_path: Path) -> None:
    behaviour = Behaviour(CONTENT)

    class EnoughError(Exception):
        pass

    def stop_early(done: int, total: int | None) -> None:
        if done >= 3 * PART:
            raise EnoughError

    with serve(behaviour) as address:
        upstream = find(Web(), f"{address}/file")
        with pytest.raises(EnoughError):
            download(Web(), upstream, tmp_path / "file", stop_early, PART)
        behaviour.asked.clear()
        assert get(f"{address}/file", tmp_path / "file", upstream) == CONTENT
        starts = [int(re.findall(r"\d+", asked)[0]) for _, _, asked in behaviour.asked]
    assert min(starts) == 3 * PART


def test_a_file_without_a_version_starts_anew(tmp_path: Path) -> None:
    def leave_early(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with serve(Behaviour(CONTENT, headers={})) as address:
        upstream = find(Web(), f"{address}/file")
        with pytest.raises(KeyboardInterrupt):
            download(Web(), upstream, tmp_path / "file", leave_early, PART)
        next(tmp_path.iterdir()).write_bytes(b"the beginning of some other file")
        assert get(f"{address}/file", tmp_path / "file", upstream) == CONTENT


def test_a_file_that_changed_since_it_was_pinned_is_refused(tmp_path: Path) -> None:
    behaviour = Behaviour(CONTENT)
    with serve(behaviour) as address:
        pinned = find(Web(), f"{address}/file")
        behaviour.headers["ETag"] = '"2"'
        with pytest.raises(DataError, match="has changed since it was pinned"):
            get(f"{address}/file", tmp_path / "file", pinned)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "there is no such file (HTTP 404)"),
        (410, "there is no such file (HTTP 410)"),
        (401, "access denied (HTTP 401)"),
        (418, "HTTP 418"),
    ],
)
def test_a_refusal_is_final_and_names_the_address(status: int, message: str) -> None:
    with serve(Behaviour(CONTENT, statuses=[status] * 3)) as address:
        with pytest.raises(DataError) as refused:
            find(Web(), f"{address}/file")
        assert str(refused.value).startswith(f"{address}/file")
        assert message in str(refused.value)


def test_an_overloaded_server_is_asked_again(tmp_path: Path) -> None:
    with serve(Behaviour(CONTENT, statuses=[503, 500])) as address:
        assert get(f"{address}/file", tmp_path / "file", patience_s=30) == CONTENT


def test_a_server_that_stays_broken_is_given_up() -> None:
    with (
        serve(Behaviour(CONTENT, statuses=[500] * 1000)) as address,
        pytest.raises(DataError, match=r"can't be reached: HTTP 500"),
    ):
        find(Web(), f"{address}/file", patience_s=0.3)
    with pytest.raises(DataError, match="can't be reached"):
        find(Web(), f"http://127.0.0.1:{free_port()}/file", patience_s=0.3)


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:hunter2@example.invalid/fer.csv",
        "https://hunter2@example.invalid/fer.csv",
        "https://example.invalid/fer.csv?X-Amz-Signature=hunter2",
        "https://example.invalid/fer.csv?raw=1&sig=hunter2",
        "https://example.invalid/fer.csv?access_token=hunter2",
        "https://example.invalid/fer.csv?apikey=hunter2",
    ],
)
def test_secrets_in_an_address_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(DataError, match="netrc") as refused:
        find(Web(), uri)
    assert "hunter2" not in str(refused.value)


def test_an_address_without_a_server_is_refused() -> None:
    with pytest.raises(DataError, match="names no server"):
        find(Web(), "https:///fer.csv")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")

    def leave_early(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with serve(Behaviour(CONTENT)) as address:
        upstream = find(Web(), f"{address}/file")
        with pytest.raises(KeyboardInterrupt):
            download(Web(), upstream, tmp_path / "file", leave_early, PART)
        partial = next(tmp_path.iterdir())
        partial.unlink()
        partial.symlink_to(full)
        with pytest.raises(DataError, match="can't be written: No space left"):
            download(Web(), upstream, tmp_path / "file", silent, PART)


def test_addresses_are_told_apart() -> None:
    assert isinstance(place_of("https://example.invalid/fer.csv"), Web)
    assert isinstance(place_of("http://example.invalid/fer.csv"), Web)
    assert place_of("data/fer2013.csv") is None
    assert place_of("/data/s3/fer2013.csv") is None

"""A source is read as it was pinned, or not at all; what is wrong is said with what to do."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from edition_files import (
    Files,
    assert_same_faces,
    challenge,
    fer2013_csv,
    only,
    pictures_by_folder,
    random_faces,
    write,
    write_folder,
    zip_bytes,
)

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.pins import Earlier, FilePin, Pin, read_pin, write_pin
from fer_pipeline.data.profile import profile_of
from fer_pipeline.data.sample import SAMPLE_VERSION, draw_sample
from fer_pipeline.data.sources import (
    SAMPLE_PIN,
    Fetcher,
    pin_source,
    read_pinned,
    upstream_moved,
)
from fer_pipeline.errors import DataError
from fer_pipeline.params import DataParams, Params

FACES = random_faces()
CSV = only(fer2013_csv(FACES))
OTHER_CSV = only(fer2013_csv(random_faces(1)))
THIRD_CSV = only(fer2013_csv(random_faces(2)))
SAMPLE = Pin(SAMPLE_PIN, None, None, None)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def data(params: Params) -> DataParams:
    """The committed section with the smallest sample."""
    sample = params.data.sample.model_copy(update={"train": 7, "val": 8, "test": 9, "seed": 3})
    return params.data.model_copy(update={"sample": sample})


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "downloads", lambda done, total: None)


@pytest.fixture
def take(data: DataParams, fetcher: Fetcher) -> Callable[..., Pin]:
    """`fer source pin`, without the file."""

    def pin_now(uri: object, before: Pin | None = None, ferplus: Path | None = None) -> Pin:
        return pin_source(str(uri), str(ferplus) if ferplus else None, data, before, fetcher)[0]

    return pin_now


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(DataError) as refused:
        attempt()
    assert "\n" not in str(refused.value)
    return str(refused.value)


# the built-in sample


def test_the_sample_is_pinned_by_its_version(take: Callable[..., Pin]) -> None:
    assert take("sample") == Pin(FilePin("sample", SAMPLE_VERSION, 0, ""), None, None, None)


def test_the_sample_is_drawn_as_the_params_say(data: DataParams, fetcher: Fetcher) -> None:
    faces, origin = read_pinned(SAMPLE, data, fetcher)
    assert_same_faces(faces, draw_sample(7, 8, 9, seed=3))
    assert (origin.uri, origin.version, origin.sha256) == ("sample", SAMPLE_VERSION, "")
    assert (origin.synthetic, origin.edition, origin.labels) == (True, "synthetic sample", "fer")


def test_another_version_of_the_sample_than_the_pinned_one_is_refused(
    data: DataParams, fetcher: Fetcher
) -> None:
    old = replace(SAMPLE, source=FilePin("sample", "0", 0, ""))
    assert refusal(lambda: read_pinned(old, data, fetcher)) == (
        f"the built-in sample has changed since it was pinned (version '0', now "
        f"'{SAMPLE_VERSION}'): run 'fer source pin sample' to accept what it is now"
    )


def test_the_sample_has_no_votes(data: DataParams, fetcher: Fetcher) -> None:
    voted = data.model_copy(update={"labels": "ferplus_majority"})
    message = refusal(lambda: read_pinned(SAMPLE, voted, fetcher))
    assert message == "data.labels is ferplus_majority: the built-in sample has no votes"


# files and folders


def test_a_file_is_pinned_by_its_bytes_with_what_it_looks_like(
    tmp_path: Path, data: DataParams, fetcher: Fetcher
) -> None:
    path = write(CSV, tmp_path / "fer.csv")
    pin, edition = pin_source(str(path), None, data, None, fetcher)
    assert pin.source == FilePin(str(path), "", len(CSV), sha256(CSV))
    assert pin.profile == profile_of(FACES, "fer")
    assert (pin.ferplus, pin.previous) == (None, None)
    assert edition is not None
    assert_same_faces(edition.faces, FACES)


def test_a_pinned_file_is_read_back_with_its_origin(
    tmp_path: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    path = write(CSV, tmp_path / "fer.csv")
    write_pin(take(path), tmp_path / "source.lock.yaml")
    faces, origin = read_pinned(read_pin(tmp_path / "source.lock.yaml"), data, fetcher)
    assert_same_faces(faces, FACES)
    assert (origin.uri, origin.version, origin.sha256) == (str(path), "", sha256(CSV))
    assert (origin.synthetic, origin.edition) == (False, "csv with labels and splits")
    assert (origin.resized, origin.unlabelled, origin.dropped) == (0, 0, {})


def test_a_file_that_changed_since_it_was_pinned_is_refused_with_both_digests(
    tmp_path: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    path = write(CSV, tmp_path / "fer.csv")
    pin = take(path)
    write(OTHER_CSV, path)
    assert refusal(lambda: read_pinned(pin, data, fetcher)) == (
        f"{path} has changed since it was pinned (sha256 {sha256(CSV)[:12]}…, now "
        f"{sha256(OTHER_CSV)[:12]}…): run 'fer source pin {path}' to accept what it is now"
    )


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("missing.csv", "missing.csv is missing: give 'sample', an existing file or folder, "),
        ("", "the source is missing: give 'sample', "),
        ("empty.csv", "empty.csv is empty (0 bytes): fetch it again"),
        ("folder", "folder is empty: it holds no file"),
        ("ftp://x.org/fer.csv", "ftp:// is not known: give https://, http://, s3:// or a path"),
    ],
)
def test_a_source_that_is_not_there_is_refused_with_what_to_do(
    uri: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    take: Callable[..., Pin],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("empty.csv").touch()
    assert refusal(lambda: take(uri)).startswith(says)


def test_a_pinned_file_that_is_gone_is_refused(
    tmp_path: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    path = write(CSV, tmp_path / "fer.csv")
    pin = take(path)
    path.unlink()
    assert refusal(lambda: read_pinned(pin, data, fetcher)).startswith(f"{path} is missing: ")


@pytest.mark.parametrize(
    "content",
    [CSV[: len(CSV) // 2], b"<html><body>Sign in</body></html>\n", b"emotion,pixels,Usage\n"],
    ids=["cut off", "a login page", "a header alone"],
)
def test_what_is_no_whole_edition_is_not_pinned(
    content: bytes, tmp_path: Path, take: Callable[..., Pin]
) -> None:
    path = write(content, tmp_path / "fer.csv")
    assert refusal(lambda: take(path)).startswith(str(path))


def test_a_damaged_file_is_refused_even_if_the_pin_agrees(
    tmp_path: Path, data: DataParams, fetcher: Fetcher
) -> None:
    content = b"<html><body>Sign in</body></html>\n"
    path = write(content, tmp_path / "fer.csv")
    pin = replace(SAMPLE, source=FilePin(str(path), "", len(content), sha256(content)))
    assert refusal(lambda: read_pinned(pin, data, fetcher)).startswith(str(path))


def test_how_a_source_is_read_is_up_to_the_params(
    tmp_path: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    """The challenge has no splits, and a `test.csv` without labels."""
    path = write_folder(challenge(FACES), tmp_path / "challenge")
    assert "data.unlabelled to 'ignore'" in refusal(lambda: take(path))
    ignoring = data.model_copy(update={"unlabelled": "ignore"})
    attempt = partial(pin_source, str(path), None, ignoring, None, fetcher)
    assert "data.protocol to 'holdout'" in refusal(attempt)
    holding = ignoring.model_copy(update={"protocol": "holdout"})
    pin, _ = pin_source(str(path), None, holding, None, fetcher)
    faces, origin = read_pinned(pin, holding, fetcher)
    assert set(faces.usage) == {"Training"}
    assert (len(faces), origin.unlabelled) == (7, 14)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_folder(pictures_by_folder(FACES), tmp_path / "pictures")


def test_a_folder_is_pinned_and_read_back(
    pictures: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    pin = take(pictures)
    assert pin.source.size == sum(map(len, pictures_by_folder(FACES).values()))
    assert take(pictures) == pin
    faces, origin = read_pinned(pin, data, fetcher)
    assert len(faces) == 21
    assert profile_of(faces, "fer") == pin.profile == profile_of(FACES, "fer")
    assert origin.edition == "pictures in folders"


def rename(pictures: Path) -> None:
    first = min(pictures.rglob("*.png"))
    first.rename(first.with_name("renamed.png"))


def move(pictures: Path) -> None:
    """To another class."""
    first = min(pictures.rglob("*/6/*.png"))
    first.rename(first.parents[1] / "Angry" / first.name)


def add(pictures: Path) -> None:
    first = min(pictures.rglob("*.png"))
    first.with_name("copy.png").write_bytes(first.read_bytes())


def remove(pictures: Path) -> None:
    min(pictures.rglob("*.png")).unlink()


def change(pictures: Path) -> None:
    first, second, *_ = sorted(pictures.rglob("*.png"))
    first.write_bytes(second.read_bytes())


@pytest.mark.parametrize("edit", [rename, move, add, remove, change])
def test_a_folder_that_changed_since_it_was_pinned_is_refused(
    edit: Callable[[Path], None],
    pictures: Path,
    take: Callable[..., Pin],
    data: DataParams,
    fetcher: Fetcher,
) -> None:
    pin = take(pictures)
    assert upstream_moved(pin.source) == ""
    edit(pictures)
    message = refusal(lambda: read_pinned(pin, data, fetcher))
    assert message.startswith(f"{pictures} has changed since it was pinned (sha256 ")
    assert upstream_moved(pin.source) in message


def test_a_folder_is_known_by_what_is_in_it_not_by_where_it_is(
    pictures: Path, take: Callable[..., Pin]
) -> None:
    before = take(pictures).source
    moved = pictures.rename(pictures.with_name("elsewhere"))
    for file in moved.rglob("*"):
        os.utime(file, (0, 0))
    assert take(moved).source == replace(before, uri=str(moved))


# what drift is measured against


def test_the_first_pin_has_nothing_before_it(tmp_path: Path, take: Callable[..., Pin]) -> None:
    assert take(write(CSV, tmp_path / "a.csv")).previous is None
    assert take(write(CSV, tmp_path / "a.csv"), SAMPLE).previous is None


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


def test_a_version_is_never_compared_with_itself(tmp_path: Path, take: Callable[..., Pin]) -> None:
    path = write(CSV, tmp_path / "a.csv")
    first = take(path)
    assert take(path, take("sample", first)).previous is None
    back = take(path, take(write(OTHER_CSV, tmp_path / "b.csv"), first))
    assert back.previous is not None
    assert back.previous.source.uri == str(tmp_path / "b.csv")


# FER+


VOTES = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
COLUMNS = (4, 5, 6, 1, 3, 2, 0)
"""The column of votes for each of FER2013's emotions."""


@pytest.fixture(scope="module")
def twice() -> Faces:
    """Each emotion twice in each split."""
    one, other = random_faces(3), random_faces(4)
    return Faces(
        np.concatenate([one.pixels, other.pixels]),
        np.concatenate([one.emotion, other.emotion]),
        np.concatenate([one.usage, other.usage]),
    )


def votes_csv(faces: Faces, to_happy: int, no_face: int) -> bytes:
    """All agree with FER2013's labels, but for two rows."""
    lines = [f"Usage,Image name,{VOTES}\n"]
    for row, (emotion, usage) in enumerate(zip(faces.emotion, faces.usage, strict=True)):
        counts = [0] * 10
        counts[{to_happy: 1, no_face: 9}.get(row, COLUMNS[emotion])] = 10
        lines.append(f"{usage},fer{row:07}.png,{','.join(map(str, counts))}\n")
    return "".join(lines).encode()


@pytest.fixture
def voted(twice: Faces) -> Files:
    sad, neutral = (int(np.flatnonzero(twice.emotion == code)[0]) for code in (4, 6))
    return {**fer2013_csv(twice), "fer2013new.csv": votes_csv(twice, sad, neutral)}


@pytest.fixture
def asking(data: DataParams) -> DataParams:
    return data.model_copy(update={"labels": "ferplus_majority"})


def assert_voted(faces: Faces, twice: Faces) -> None:
    wanted = np.bincount(twice.emotion) + np.array([0, 0, 0, 1, -1, 0, -1])
    assert np.bincount(faces.emotion).tolist() == wanted.tolist()


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_votes_beside_the_faces_are_part_of_the_source(
    packed: bool, tmp_path: Path, voted: Files, twice: Faces, asking: DataParams, fetcher: Fetcher
) -> None:
    path = (
        write(zip_bytes(voted), tmp_path / "fer.zip")
        if packed
        else write_folder(voted, tmp_path / "fer")
    )
    pin, _ = pin_source(str(path), None, asking, None, fetcher)
    assert pin.ferplus is None
    faces, origin = read_pinned(pin, asking, fetcher)
    assert_voted(faces, twice)
    assert pin.profile == profile_of(faces, "ferplus_majority")
    assert origin.labels == "ferplus_majority"
    assert {reason: count for reason, count in origin.dropped.items() if count} == {"not_a_face": 1}


def test_votes_in_a_file_of_their_own_are_pinned_with_their_own_digest(
    tmp_path: Path, voted: Files, twice: Faces, asking: DataParams, fetcher: Fetcher
) -> None:
    folder = write_folder(voted, tmp_path)
    path, votes = folder / "fer2013.csv", folder / "fer2013new.csv"
    pin, _ = pin_source(str(path), str(votes), asking, None, fetcher)
    content = votes.read_bytes()
    assert pin.ferplus == FilePin(str(votes), "", len(content), sha256(content))
    assert pin.source.sha256 == sha256(path.read_bytes())
    assert_voted(read_pinned(pin, asking, fetcher)[0], twice)

    votes.write_bytes(content.replace(b"fer0000000", b"fer9999999"))
    assert refusal(lambda: read_pinned(pin, asking, fetcher)) == (
        f"{votes} has changed since it was pinned (sha256 {sha256(content)[:12]}…, now "
        f"{sha256(votes.read_bytes())[:12]}…): run 'fer source pin {path} --ferplus {votes}' to "
        f"accept what it is now"
    )
    votes.unlink()
    assert refusal(lambda: read_pinned(pin, asking, fetcher)).startswith(f"{votes} is missing")


def test_votes_that_are_asked_for_but_not_there_are_refused_with_the_command(
    tmp_path: Path, voted: Files, asking: DataParams, fetcher: Fetcher
) -> None:
    path = write(voted["fer2013.csv"], tmp_path / "fer2013.csv")
    message = refusal(lambda: pin_source(str(path), None, asking, None, fetcher))
    assert message.startswith(f"{path} has no fer2013new.csv beside it")
    assert "'fer source pin URI --ferplus URI'" in message


# has the source moved on?


def test_the_present_sample_has_not_moved() -> None:
    assert upstream_moved(SAMPLE_PIN) == ""
    old = FilePin("sample", "0", 0, "")
    assert upstream_moved(old) == f"version '0', now '{SAMPLE_VERSION}'"


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


# files from a server


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


def test_files_of_one_name_from_two_places_are_kept_apart(
    server: Server, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    pins = [take(server.put("a/fer.csv", CSV)), take(server.put("b/fer.csv", OTHER_CSV))]
    for pin, seed in zip(pins, (0, 1), strict=True):
        assert_same_faces(read_pinned(pin, data, fetcher)[0], random_faces(seed))


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

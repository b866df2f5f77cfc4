"""From a pin to faces: the pinned bytes are fetched, checked against it, and read.

Where the bytes are is known to `web` and `s3`, what they are is told apart by content in
`editions`; here they meet.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fer_pipeline.data.profile import profile_of
from fer_pipeline.data.sources import s3, web
from fer_pipeline.data.sources.containers import names_in
from fer_pipeline.data.sources.downloads import (
    Place,
    Progress,
    Upstream,
    VersionGoneError,
    download,
    find,
)
from fer_pipeline.data.sources.edition import Edition, Reading
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.data.sources.pins import Earlier, FilePin, Pin
from fer_pipeline.data.sources.sample import SAMPLE_VERSION, draw_sample
from fer_pipeline.data.store import Origin
from fer_pipeline.errors import DataError
from fer_pipeline.paths import project_folder

if TYPE_CHECKING:
    from fer_pipeline.data.faces import Faces
    from fer_pipeline.params.schema import DataParams

SAMPLE_URI = "sample"
MAX_NAME = 100
"""Characters of a file's name that are kept: what an address ends with may be longer than a disk
allows."""

SAMPLE_PIN = FilePin(SAMPLE_URI, SAMPLE_VERSION, 0, "")


def place_of(uri: str) -> Place | None:
    """The kind of server that a URI names; None for a path.

    Raises:
        DataError: a URI of a kind that is not known.
    """
    if uri.lower().startswith(s3.SCHEME):
        return s3.S3()
    if uri.lower().startswith(web.SCHEMES):
        return web.Web()
    if "://" in uri:
        scheme = uri.partition("://")[0]
        raise DataError(f"{scheme}:// is not known: give https://, http://, s3:// or a path")
    return None


class Fetcher:
    """Brings files to this machine; what was downloaded once is kept in `folder`."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress

    def newest(self, uri: str) -> tuple[FilePin, Path]:
        """The present version of a source, fetched.

        Raises:
            DataError: there is no such source, or it can't be reached.
        """
        place = place_of(uri)
        if place is None:
            path = _require_local(uri)
            return FilePin(uri, "", *_measure(path)), path
        upstream = find(place, uri)
        path = self._path(uri, upstream.version)
        # What lies there is that version, unless the disk has lost a part of it.
        if not upstream.version or not path.exists() or path.stat().st_size != upstream.size:
            download(place, upstream, path, self._progress)
        return FilePin(uri, upstream.version, *_measure(path)), path

    def pinned(self, pin: FilePin, command: str) -> Path:
        """The file whose bytes are the pinned ones.

        Args:
            pin: of the file.
            command: what accepts other bytes, for the message.

        Raises:
            DataError: it is not there any more, or its bytes are others.
        """
        place = place_of(pin.uri)
        path = self._path(pin.uri, pin.version) if place else _require_local(pin.uri)
        now, what = _measure(path)[1] if path.exists() else "", "has changed since it was pinned"
        if place and now != pin.sha256:
            path.unlink(missing_ok=True)  # bytes that the disk, or somebody, has changed
            try:
                download(place, Upstream(pin.uri, pin.version, pin.size), path, self._progress)
            except VersionGoneError as error:
                raise DataError(f"{error}: run '{command}' to take what is there now") from error
            now, what = _measure(path)[1], "is not what was pinned"
            if now != pin.sha256:
                path.unlink()
        if now != pin.sha256:
            raise DataError(
                f"{pin.uri} {what} ({_digests(pin.sha256, now)}): run '{command}' to accept what "
                f"it is now"
            )
        return path

    def _path(self, uri: str, version: str) -> Path:
        key = hashlib.sha256(f"{uri}\n{version}".encode()).hexdigest()[:12]
        # In a folder of its own, for names have a meaning: shards are called after their splits.
        return self._folder / key / uri.partition("?")[0].rsplit("/", 1)[-1][-MAX_NAME:]


def pin_source(
    uri: str, ferplus: str | None, params: DataParams, before: Pin | None, fetcher: Fetcher
) -> tuple[Pin, Edition | None]:
    """Pin the present version of a source, after reading it whole.

    Args:
        uri: of the faces.
        ferplus: the URI of FER+'s votes, where they are not beside the faces.
        params: how the faces are to be read.
        before: the pin until now; its profile becomes the one that drift is measured against.
        fetcher: brings the bytes.

    Returns:
        The pin, and the edition that it pins, or None for the sample.

    Raises:
        DataError: there is no such source, or it is no edition of FER2013.
    """
    if ferplus and params.labels == "fer":
        raise DataError(
            "data.labels is fer, so FER+'s votes would not be read: set it to ferplus_majority"
        )
    if uri == SAMPLE_URI and ferplus:
        raise DataError("the built-in sample has no votes: leave --ferplus out")
    if uri == SAMPLE_URI:
        return Pin(SAMPLE_PIN, None, None, _earlier(SAMPLE_PIN, before)), None
    votes, votes_path = fetcher.newest(ferplus) if ferplus else (None, None)
    source, path = fetcher.newest(uri)
    edition = read_edition(path, reading(params), votes_path)
    profile = profile_of(edition.faces, params.labels)
    return Pin(source, votes, profile, _earlier(source, before)), edition


def read_pinned(pin: Pin, params: DataParams, fetcher: Fetcher) -> tuple[Faces, Origin]:
    """The faces of the pinned source, and where they came from.

    Raises:
        DataError: the source is gone, damaged, or not what the pin says.
    """
    if pin.source.uri == SAMPLE_URI:
        return _draw(pin.source, params)
    path = fetcher.pinned(pin.source, pin.command)
    votes = fetcher.pinned(pin.ferplus, pin.command) if pin.ferplus else None
    edition = read_edition(path, reading(params), votes)
    origin = Origin(
        pin.source.uri, pin.source.version, pin.source.sha256, synthetic=False,
        edition=edition.name, labels=params.labels, resized=edition.resized,
        unlabelled=edition.unlabelled, dropped=edition.dropped,
    )  # fmt: skip
    return edition.faces, origin


def upstream_moved(pin: FilePin) -> str:
    """What differs at the source from a pin, in a few words; empty if nothing does.

    Costs one question to the server, or the reading of a local file.

    Raises:
        DataError: there is no such source any more, or it can't be reached.
    """
    if pin.uri == SAMPLE_URI:
        return "" if pin == SAMPLE_PIN else f"version {pin.version!r}, now {SAMPLE_VERSION!r}"
    place = place_of(pin.uri)
    if place is None:
        _, sha256 = _measure(_require_local(pin.uri))
        return "" if sha256 == pin.sha256 else _digests(pin.sha256, sha256)
    now = find(place, pin.uri)
    if now.version != pin.version:
        return f"version {pin.version or 'unknown'}, now {now.version or 'unknown'}"
    if now.size not in (None, pin.size):
        return f"{pin.size:,} bytes, now {now.size:,}"
    return "" if now.version else "perhaps changed: the server names no version"


def reading(params: DataParams) -> Reading:
    return Reading(params.labels, params.unlabelled, params.protocol == "holdout")


def _draw(pin: FilePin, params: DataParams) -> tuple[Faces, Origin]:
    if pin != SAMPLE_PIN:
        raise DataError(
            f"the built-in sample has changed since it was pinned (version {pin.version!r}, now "
            f"{SAMPLE_VERSION!r}): run 'fer source pin {SAMPLE_URI}' to accept what it is now"
        )
    if params.labels != "fer":
        raise DataError(f"data.labels is {params.labels}: the built-in sample has no votes")
    sample = params.sample
    faces = draw_sample(sample.train, sample.val, sample.test, sample.seed)
    origin = Origin(SAMPLE_URI, SAMPLE_VERSION, "", True, "synthetic sample", params.labels)
    return faces, origin


def _earlier(source: FilePin, before: Pin | None) -> Earlier | None:
    """What drift of `source` is measured against: the last version with other bytes."""
    if before is None:
        return None
    if before.profile is None or before.source.sha256 == source.sha256:
        earlier = before.previous
    else:
        earlier = Earlier(before.source, before.profile)
    return None if earlier and earlier.source.sha256 == source.sha256 else earlier


def _require_local(uri: str) -> Path:
    for path in (Path(uri), project_folder() / uri):
        try:
            there = bool(uri) and path.exists()  # Path("") is the present folder
        except OSError:  # such as a name longer than any
            there = False
        if there and path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{uri} is empty (0 bytes): fetch it again")
        if there:
            return path
    raise DataError(
        f"{uri or 'the source'} is missing: give 'sample', an existing file or folder, https:// or "
        f"s3://"
    )


def _digests(before: str, now: str) -> str:
    return f"sha256 {before[:12]}…, now {now[:12]}…"


def _measure(path: Path) -> tuple[int, str]:
    """Bytes and digest of a file, or of a folder: the digest of its files' names and digests."""
    if path.is_file():
        with path.open("rb") as stream:
            return path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
    files = [(name, *_measure(path / name)) for name in names_in(path)]
    listed = "".join(f"{name}\n{sha256}\n" for name, _, sha256 in files)
    return sum(size for _, size, _ in files), hashlib.sha256(os.fsencode(listed)).hexdigest()

"""A folder, an archive or a single file, all as named streams; nothing is ever unpacked to disk.

Told apart by content: `.zip`, `.tar` and `.tar.gz`, a gzipped file, else the file itself. An
archive that tries to leave its folder, holds links, or swells beyond `MAX_BYTES` is refused.
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self, cast

from fer_pipeline.errors import DataError, one_line

MAX_BYTES = 2 << 30
"""The largest content of an archive, unpacked. The largest edition, the csv, has 0.3 GB."""

MAX_MEMBERS = 200_000

LFS_POINTER = b"version https://git-lfs"
"""How the small file begins that Git LFS leaves where the data were not fetched."""

_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError,
    UnicodeDecodeError, EOFError, OSError,
)  # fmt: skip
_TAR_MAGIC = slice(257, 262)
_HEADER_TYPES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_MAX_HEADER = 1 << 20
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Container:
    """Named files.

    Attributes:
        path: of the folder, archive or file on disk, for messages.
        names: with forward slashes, sorted; what systems leave behind (`__MACOSX`) is left out.
        open: gives a stream of one file's bytes, to be closed.
        joint: what messages put between the path and a name; None for a single file.
        offsets: where the files begin, if they are best read in that order.
    """

    path: Path
    names: list[str]
    open: Callable[[str], BinaryIO]
    joint: str | None = ": "
    offsets: Mapping[str, int] = field(default_factory=dict)

    def read(self, name: str, at_most: int) -> bytes:
        """The content of a file that has no more than `at_most` bytes, whatever it claims.

        Raises:
            DataError: it has more, or is only a pointer to the data.
        """
        with self.open(name) as stream:
            content = stream.read(at_most + 1)
        if len(content) > at_most:
            raise DataError(
                f"{self.where(name)} has more than {at_most:,} bytes, which FER2013 never has"
            )
        self.require_data(name, content)
        return content

    def read_each(self, names: list[str], at_most: int) -> Iterator[tuple[str, bytes]]:
        """Name and content of many files, in the order that reads fastest."""
        # A compressed archive can only be read forwards: going back starts from its beginning.
        for name in sorted(names, key=lambda name: self.offsets.get(name, 0)):
            yield name, self.read(name, at_most)

    def require_data(self, name: str, start: bytes) -> None:
        """Refuse a file that begins like a pointer to what it stands for."""
        if start.startswith(LFS_POINTER):
            raise DataError(
                f"{self.where(name)} is a Git LFS pointer, not the data: run 'git lfs pull' where "
                f"it was cloned"
            )

    def where(self, name: str) -> str:
        """What messages call a file."""
        name = "" if self.joint is None else f"{self.joint}{on_one_line(name)}"
        return f"{self.path}{name}"


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open what `path` is, a folder, an archive or a file.

    Raises:
        DataError: the archive is damaged, tries to leave its folder, holds links, or is a bomb;
            also for damage that shows while the block reads.
    """
    try:
        if path.is_dir():
            yield Container(path, names_in(path), lambda name: (path / name).open("rb"), "/")
            return
        with path.open("rb") as file:
            start = file.read(2)
        if not start:
            raise DataError(f"{path} is empty (0 bytes): fetch it again")
        if start == b"PK":
            with zipfile.ZipFile(path) as archive:
                yield _zip(path, archive)
            return
        gzipped = start == b"\x1f\x8b"

        def open_file(_: str = "") -> BinaryIO:
            return cast(BinaryIO, _Bounded(path)) if gzipped else path.open("rb")

        with open_file() as stream:
            is_tar = stream.read(512)[_TAR_MAGIC] == b"ustar"
            stream.seek(0)
            if not is_tar:
                yield Container(path, [path.name], open_file, None)
                return
            with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as tar:
                yield _tar(path, tar, stream)
    except NotImplementedError as error:  # zipfile's word for an unknown way of packing
        raise DataError(f"{path} can't be unpacked: {error}") from error
    except _BROKEN as error:
        raise DataError(
            f"{path} is damaged or cut off ({one_line(error)}): fetch it again"
        ) from error


def names_in(folder: Path) -> list[str]:
    """The files below a folder, without what systems leave behind."""
    return _kept(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )


def _zip(path: Path, archive: zipfile.ZipFile) -> Container:
    members = [info for info in archive.infolist() if not info.filename.endswith("/")]
    _require_sane([(info.filename, info.file_size) for info in members], path)
    for info in members:
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{path}: member {info.filename!r} is a link, which is refused")
        if info.flag_bits & 1:
            raise DataError(f"{path}: member {info.filename!r} is encrypted: unpack it first")
    names = _kept(info.filename for info in members)
    return Container(path, names, lambda name: cast(BinaryIO, archive.open(name)))


def _tar(path: Path, archive: tarfile.TarFile, stream: BinaryIO) -> Container:
    members = list(islice(archive, MAX_MEMBERS + 1))  # one pass over the whole archive
    for member in members:
        if not (member.isfile() or member.isdir()):
            kind = "a link" if member.islnk() or member.issym() else "no plain file"
            raise DataError(f"{path}: member {member.name!r} is {kind}, which is refused")
    _require_sane([(one.name, one.size) for one in members], path)
    # At a damaged header tarfile just stops; a whole archive stops at a block of zeros.
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end at byte {archive.offset}")
    while stream.read(1 << 20):
        pass  # to the very end, where gzip keeps its checksum
    files = {member.name: member for member in members if member.isfile()}
    offsets = {name: member.offset for name, member in files.items()}

    def open_member(name: str) -> BinaryIO:
        return cast(BinaryIO, archive.extractfile(files[name]))

    return Container(path, _kept(files), open_member, offsets=offsets)


class _Member(tarfile.TarInfo):
    """A member whose header holds no more than names need: tarfile reads it into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _HEADER_TYPES and found.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found


class _Bounded(gzip.GzipFile):
    """A gzipped file's content that ends with an error where it goes beyond `MAX_BYTES`."""

    def read(self, size: int | None = -1) -> bytes:
        chunk = super().read(MAX_BYTES + 1 if size is None or size < 0 else size)
        self._require_within(self.tell())
        return chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._require_within(offset)  # going there unpacks all that lies before
        return super().seek(offset, whence)

    def _require_within(self, offset: int) -> None:
        if offset > MAX_BYTES:
            raise DataError(_too_large(self.name))


def _require_sane(members: list[tuple[str, int]], path: Path) -> None:
    """Refuse names that leave the archive's folder, and more content than any edition has."""
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{path} has over {MAX_MEMBERS:,} members: FER2013 has 35,887 images")
    if sum(size for _, size in members) > MAX_BYTES:
        raise DataError(_too_large(path))
    for name, _ in members:
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or place.as_posix()[1:3] == ":/":
            raise DataError(f"{path}: member {name!r} points outside the archive, which is refused")


def _too_large(path: object) -> str:
    return f"{path} unpacks to more than {MAX_BYTES >> 30} GiB, which FER2013 never does"


def _kept(names: Iterable[str]) -> list[str]:
    return sorted(
        name
        for name in set(names)  # of a member that is there twice, the last counts
        if not any(part in _LITTER or part.startswith(".") for part in PurePosixPath(name).parts)
    )


def on_one_line(name: str) -> str:
    """A file's name as messages can show it, whatever signs are in it."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)

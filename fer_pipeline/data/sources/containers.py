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
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from fer_pipeline.errors import DataError, one_line

MAX_BYTES = 2 << 30
"""The largest content of an archive, unpacked. The largest edition, the csv, has 0.3 GB."""

MAX_MEMBERS = 200_000

_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError,
    UnicodeDecodeError, EOFError, OSError,
)  # fmt: skip
_TAR_MAGIC = slice(257, 262)
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class Container(ABC):
    """Named files.

    Attributes:
        path: of the folder, archive or file on disk, for messages.
        names: with forward slashes, sorted; what systems leave behind (`__MACOSX`) is left out.
    """

    path: Path
    names: list[str]

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A stream of one file's bytes, to be closed."""

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            return stream.read()

    def read_each(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """Name and content of many files, in the order that reads fastest."""
        return ((name, self.read(name)) for name in names)

    def where(self, name: str) -> str:
        """What messages call a file."""
        return f"{self.path}: {on_one_line(name)}"


class Folder(Container):
    """The files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = _kept(
            file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()
        )

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def where(self, name: str) -> str:
        return str(self.path / on_one_line(name))


class SingleFile(Container):
    """One file, gzipped or not, as a container of itself."""

    def __init__(self, path: Path, gzipped: bool) -> None:
        self.path, self._gzipped = path, gzipped
        self.names = [path.name]

    def open(self, name: str) -> BinaryIO:
        return _gunzip(self.path) if self._gzipped else self.path.open("rb")

    def where(self, name: str) -> str:
        return str(self.path)


class Zip(Container):
    """The members of a zip archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        members = [info for info in archive.infolist() if not info.filename.endswith("/")]
        _require_sane([(info.filename, info.file_size) for info in members], path)
        for info in members:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"{path}: member {info.filename!r} is a link, which is refused")
            if info.flag_bits & 1:
                raise DataError(f"{path}: member {info.filename!r} is encrypted: unpack it first")
        self.names = _kept(info.filename for info in members)

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._archive.open(name))


class Tar(Container):
    """The members of a tar archive, compressed by gzip or not."""

    def __init__(self, path: Path, archive: tarfile.TarFile, stream: BinaryIO) -> None:
        self.path, self._archive = path, archive
        self._members: dict[str, tarfile.TarInfo] = {}
        for count, member in enumerate(archive, start=1):  # one pass over the whole archive
            _require_few(count, path)
            if not (member.isfile() or member.isdir()):
                kind = "a link" if member.islnk() or member.issym() else "no plain file"
                raise DataError(f"{path}: member {member.name!r} is {kind}, which is refused")
            if member.isfile():
                self._members[member.name] = member
        # At a damaged header tarfile just stops; a whole archive stops at a block of zeros.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no member and no end at byte {archive.offset}")
        while stream.read(1 << 20):
            pass  # to the very end, where gzip keeps its checksum
        _require_sane([(one.name, one.size) for one in self._members.values()], path)
        self.names = _kept(self._members)

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._archive.extractfile(self._members[name]))

    def read_each(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        # A compressed archive can only be read forwards: going back starts from its beginning.
        return super().read_each(sorted(names, key=lambda name: self._members[name].offset))


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open what `path` is, a folder, an archive or a file.

    Raises:
        DataError: the archive is damaged, tries to leave its folder, holds links, or is a bomb;
            also for damage that shows while the block reads.
    """
    try:
        if path.is_dir():
            yield Folder(path)
            return
        with path.open("rb") as stream:
            start = stream.read(2)
        if not start:
            raise DataError(f"{path} is empty (0 bytes): fetch it again")
        if start == b"PK":
            with zipfile.ZipFile(path) as archive:
                yield Zip(path, archive)
            return
        gzipped = start == b"\x1f\x8b"
        with _gunzip(path) if gzipped else path.open("rb") as stream:
            is_tar = stream.read(512)[_TAR_MAGIC] == b"ustar"
            stream.seek(0)
            if not is_tar:
                yield SingleFile(path, gzipped)
                return
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                yield Tar(path, tar, stream)
    except NotImplementedError as error:  # zipfile's word for an unknown way of packing
        raise DataError(f"{path} can't be unpacked: {error}") from error
    except _BROKEN as error:
        raise DataError(
            f"{path} is damaged or cut off ({one_line(error)}): fetch it again"
        ) from error


def _gunzip(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Bounded(path), 1 << 20))


class _Bounded(io.RawIOBase):
    """A gzipped file's content that ends with an error where it goes beyond `MAX_BYTES`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inner = gzip.open(path, "rb")  # noqa: SIM115 (closed in close)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if offset > MAX_BYTES:  # going there would unpack all that lies before
            raise DataError(_too_large(self._path))
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        return self._inner.tell()

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        chunk = self._inner.read(len(target))
        if self._inner.tell() > MAX_BYTES:
            raise DataError(_too_large(self._path))
        target[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _require_sane(members: list[tuple[str, int]], path: Path) -> None:
    """Refuse names that leave the archive's folder, and more content than any edition has."""
    _require_few(len(members), path)
    if sum(size for _, size in members) > MAX_BYTES:
        raise DataError(_too_large(path))
    for name, _ in members:
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or place.as_posix()[1:3] == ":/":
            raise DataError(f"{path}: member {name!r} points outside the archive, which is refused")


def _require_few(members: int, path: Path) -> None:
    if members > MAX_MEMBERS:
        raise DataError(f"{path} has over {MAX_MEMBERS:,} members: FER2013 has 35,887 images")


def _too_large(path: Path) -> str:
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

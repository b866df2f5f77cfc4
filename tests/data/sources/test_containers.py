"""An archive gives its files as they are; one that is damaged, or means harm, is refused."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from edition_files import (
    ARCHIVES,
    OFFICIAL,
    Files,
    Writer,
    assert_same_faces,
    fer2013_csv,
    in_order,
    only,
    pictures_by_folder,
    random_faces,
    refusal,
    tar_bytes,
    write,
    zip_bytes,
)

from fer_pipeline.data.sources import containers
from fer_pipeline.data.sources.containers import open_container
from fer_pipeline.data.sources.editions import read_edition

FACES = random_faces()
CSV = fer2013_csv(FACES)
PICTURES = pictures_by_folder(FACES)
STORED = zipfile.ZIP_STORED
EVIL = "train/happy/evil.png"

FILES: Files = {"b/two.txt": b"2", "a/one.txt": b"1", "b/\u00e9 x.txt": b"3" * 70_000}


@pytest.mark.parametrize("write_files", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_a_container_gives_its_files_under_sorted_names(
    write_files: Writer, tmp_path: Path
) -> None:
    with open_container(write_files(FILES, tmp_path / "files")) as container:
        assert container.names == ["a/one.txt", "b/two.txt", "b/\u00e9 x.txt"]
        assert {name: container.read(name, 1 << 20) for name in container.names} == FILES
        assert dict(container.read_each(container.names, 1 << 20)) == FILES


def test_a_member_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for content in (b"old", b"new"):
            member = tarfile.TarInfo("train/one.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with open_container(write(stream.getvalue(), tmp_path / "twice.tar")) as container:
        assert [container.read(name, 1 << 20) for name in container.names] == [b"new"]


def test_names_that_begin_at_the_present_folder_are_no_litter(tmp_path: Path) -> None:
    files = {f"./{name}": content for name, content in PICTURES.items()}
    path = write(tar_bytes(files), tmp_path / "faces.tar")
    assert_same_faces(in_order(read_edition(path, OFFICIAL).faces), in_order(FACES))


def zip_with(name: str = EVIL, **attributes: object) -> bytes:
    """The pictures and one more member."""
    stream = io.BytesIO(zip_bytes(PICTURES))
    member = zipfile.ZipInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(member, only(CSV)[:100])
    return stream.getvalue()


def in_directory(content: bytes, offset: int, value: bytes) -> bytes:
    """A zip with something else in the last entry of its directory."""
    start = content.rindex(b"PK\x01\x02") + offset
    return content[:start] + value + content[start + len(value) :]


def tar_with(name: str = EVIL, compression: str = "gz", **attributes: object) -> bytes:
    """The pictures and one more member, without content."""
    stream = io.BytesIO(tar_bytes(PICTURES))
    member = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    with tarfile.open(fileobj=stream, mode="a") as archive:
        archive.addfile(member)
    return gzip.compress(stream.getvalue(), 1) if compression else stream.getvalue()


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


OUTSIDE = "points outside the archive"
LINK = f"member {EVIL!r} is a link"
DAMAGED = "is damaged or cut off"

CORRUPT: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip, above its folder": (lambda: zip_with("../x.png"), f"member '../x.png' {OUTSIDE}"),
    "zip, a drive": (lambda: zip_with("C:/x.png"), f"member 'C:/x.png' {OUTSIDE}"),
    "zip, a link": (lambda: zip_with(external_attr=(stat.S_IFLNK | 0o777) << 16), LINK),
    "zip, encrypted": (
        lambda: in_directory(zip_with(), 8, b"\1"),
        f"member {EVIL!r} is encrypted",
    ),
    "zip, unknown packing": (lambda: in_directory(zip_with(), 10, b"\x63"), "can't be unpacked"),
    "zip, claims 4 GiB": (
        lambda: in_directory(zip_with(), 24, b"\xf0\xff\xff\xff"),
        "unpacks to more than 2 GiB",
    ),
    "zip, no name": (lambda: in_directory(zip_with("x"), 46, b"\0"), DAMAGED),
    "zip, other content": (lambda: flipped(zip_bytes(CSV, STORED), 9_000), "Bad CRC-32"),
    "zip, a name on two lines": (
        lambda: zip_with("train/so\nso/1.png"),
        "train/so?so/1.png: folder 'so\\nso' is none",
    ),
    "tar, above its folder": (lambda: tar_with("../x.png"), f"member '../x.png' {OUTSIDE}"),
    "tar, a hard link": (lambda: tar_with(type=tarfile.LNKTYPE, linkname="../secret"), LINK),
    "tar, a device": (lambda: tar_with(type=tarfile.CHRTYPE), "is no plain file"),
    "tar, cut off between files": (lambda: tar_bytes({"a": bytes(512)} | CSV)[:1024], DAMAGED),
    "tar, a damaged header": (lambda: flipped(tar_bytes({"a": b"a"} | CSV), 1024), DAMAGED),
    "tar.gz, cut off": (lambda: tar_bytes(CSV, "gz")[:-4_000], DAMAGED),
    "gz, cut off": (lambda: gzip.compress(only(CSV))[:-4_000], DAMAGED),
    "gz, junk": (lambda: b"\x1f\x8b\x08\x00" + b"junk" * 99, DAMAGED),
}  # fmt: skip


@pytest.mark.parametrize(("build", "says"), CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_archive_is_refused(
    build: Callable[[], bytes], says: str, tmp_path: Path
) -> None:
    assert says in refusal(write(build(), tmp_path / "faces"))


# Bombs


def claiming(size: int, name: str = "bomb.csv") -> bytes:
    """A tar whose one member says that it has `size` bytes."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf() + bytes(2048)


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["tar.gz", "tar"])
def test_a_member_that_claims_3_gib_is_not_unpacked_to_see(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    message = refusal(write(compress(claiming(3 << 30)), tmp_path / "bomb"))
    assert "unpacks to more than 2 GiB" in message or DAMAGED in message


def test_a_header_of_a_tar_that_claims_much_is_not_read(tmp_path: Path) -> None:
    """tarfile would take it into memory: a long name of 64 MiB is 64 KiB of gzip."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    content = member.tobuf(tarfile.GNU_FORMAT) + b"x" * member.size + bytes(1024)
    message = refusal(write(gzip.compress(content, 1), tmp_path / "bomb"))
    assert "a header of 67,108,864 bytes" in message


def test_a_picture_of_an_archive_is_read_no_further_than_a_face_is_large(tmp_path: Path) -> None:
    path = write(zip_bytes(PICTURES | {EVIL: bytes(64 << 20)}), tmp_path / "bomb")
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{EVIL} has more than 8,388,608 bytes" in message
    assert peak < 32 << 20


HEADER = b"emotion,pixels,Usage\n"

BOMBS: dict[str, Callable[[], bytes]] = {
    "csv.gz, beyond its header": lambda: gzip.compress(HEADER + b"0" * (5 << 20)),
    "tar.gz, many files": lambda: tar_bytes({f"{i}.png": bytes(99_999) for i in range(50)}, "gz"),
    "tar.gz, behind its end": lambda: gzip.compress(tar_bytes(CSV) + bytes(5 << 20)),
    "zip, many files": lambda: zip_bytes({f"{i}.png": bytes(99_999) for i in range(50)}),
}


@pytest.mark.parametrize("build", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_before_it_goes_off(
    build: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_BYTES", 2 << 20)
    assert "unpacks to more than" in refusal(write(build(), tmp_path / "bomb"))


def test_a_zip_that_claims_less_than_it_holds_is_refused(tmp_path: Path) -> None:
    content = zip_bytes({"fer.csv": HEADER + b"0" * (5 << 20)})
    path = write(in_directory(content, 24, (4000).to_bytes(4, "little")), tmp_path / "bomb.zip")
    assert DAMAGED in refusal(path)


@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes], ids=["zip", "tar"])
def test_an_archive_of_too_many_members_is_refused(
    pack: Callable[[Files], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_MEMBERS", 20)
    assert "has over 20 members" in refusal(write(pack(PICTURES), tmp_path / "faces"))

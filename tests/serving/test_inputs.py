"""Faces come in the same from whatever they lie in, and what can't be read is a row."""

from __future__ import annotations

import io
import itertools
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from edition_files import (
    ARCHIVES,
    Files,
    csv_bytes,
    csv_rows,
    encode,
    fer2013_csv,
    gzip,
    hub_shards,
    only,
    parquet_bytes,
    parquet_columns,
    parquet_images,
    parquet_numbers,
    parquet_raw_bytes,
    parquet_texts,
    random_faces,
    write_folder,
    zip_bytes,
)

from fer_pipeline.data.faces import Faces
from fer_pipeline.errors import DataError
from fer_pipeline.serving import inputs
from fer_pipeline.serving.inputs import Chunk, Job, read_sources
from fer_pipeline.serving.sources import find_sources

FACES = random_faces()


def read(*words: object, size: int = 256) -> Chunk:
    """All chunks as one."""
    chunks = list(read_sources(find_sources([str(word) for word in words]), size))
    assert all(len(chunk.names) <= size for chunk in chunks)
    return Chunk(
        list(itertools.chain(*(chunk.names for chunk in chunks))),
        np.concatenate([chunk.images for chunk in chunks]),
        list(itertools.chain(*(chunk.errors for chunk in chunks))),
        np.concatenate([chunk.sides for chunk in chunks]),
    )


def refusal(*words: object) -> str:
    with pytest.raises(DataError) as refused:
        find_sources([str(word) for word in words])
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def unlabelled_csv(faces: Faces) -> Files:
    return {"faces.csv": csv_bytes(([row[1]] for row in csv_rows(faces)), ["pixels"])}


def arrays(faces: Faces) -> Files:
    stream = io.BytesIO()
    np.savez_compressed(stream, labels=faces.emotion, images=faces.pixels)
    return {"val.npz": stream.getvalue()}


def one_array(faces: Faces) -> Files:
    stream = io.BytesIO()
    np.save(stream, faces.pixels)
    return {"faces.npy": stream.getvalue()}


def pictures(faces: Faces) -> Files:
    """In the order of their names, in folders that are no expressions."""
    return {f"{row // 9}/{row:03}.png": encode(face) for row, face in enumerate(faces.pixels)}


TABLES: dict[str, Callable[[Faces], Files]] = {
    "fer2013.csv": fer2013_csv,
    "csv without labels": unlabelled_csv,
    "parquet of PNG": parquet_images,
    "parquet of numbers": parquet_numbers,
    "parquet of raw bytes": parquet_raw_bytes,
    "parquet of text": parquet_texts,
    "npz": arrays,
    "npy": one_array,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_gives_the_same_pixels_in_order(
    table: Callable[[Faces], Files], tmp_path: Path
) -> None:
    ((name, content),) = table(FACES).items()
    plain = write_folder({name: content, "b/README.md": b"# 48x48 pixels\n"}, tmp_path / "a") / name
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content))
    zipped = tmp_path / "all.zip"
    zipped.write_bytes(zip_bytes({name: content, "LICENSE": b"MIT"}))
    for path in (plain,) if name == "val.npz" else (plain, packed, zipped):  # it is a zip itself
        found = read(path, size=5)
        np.testing.assert_array_equal(found.images, FACES.pixels)
        assert found.errors == [None] * 21
        assert (found.sides == 48).all()
        assert found.names[20].endswith(", row 21")
        assert found.names[20].startswith(str(path))


@pytest.mark.parametrize("archive", ARCHIVES.values(), ids=ARCHIVES)
def test_every_container_gives_the_same_pictures_in_order(
    archive: Callable[[Files, Path], Path], tmp_path: Path
) -> None:
    path = archive(pictures(FACES) | {"0/labels.csv": b"name,label\n"}, tmp_path / "faces")
    found = read(path, size=5)
    np.testing.assert_array_equal(found.images, FACES.pixels)
    assert found.names[:2] == [f"{path}{'/' if path.is_dir() else ': '}0/00{n}.png" for n in (0, 1)]


def test_a_folder_of_shards_gives_all_of_them(tmp_path: Path) -> None:
    found = read(write_folder(hub_shards(FACES), tmp_path / "hub"))
    assert sorted(found.images.tolist()) == sorted(FACES.pixels.tolist())


def test_files_patterns_folders_and_standard_input_name_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(pictures(FACES), tmp_path / "faces")
    files = sorted(folder.rglob("*.png"))
    listed = "\n".join(map(str, files)).encode() + b"\n"
    for words in (
        [folder], files, [folder / "*/*.png"], [folder / "**/*"], [folder / "*"],
        [folder / "0", *files[9:]], ["-"],
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(listed)))
        found = read(*words)
        np.testing.assert_array_equal(found.images, FACES.pixels)
        assert found.names == list(map(str, files))


@pytest.mark.slow
def test_processes_read_the_same_and_end(tmp_path: Path) -> None:
    folder = write_folder(pictures(FACES) | {"9/bad.png": b"no picture"}, tmp_path / "faces")
    found = read(folder, size=4)  # more than one chunk
    np.testing.assert_array_equal(found.images, FACES.pixels)
    assert found.errors[-1] == "picture can't be read: unknown format"


def bomb() -> bytes:
    """A small PNG that says that it is large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    start, end = encode(FACES.pixels[0])[:12], encode(FACES.pixels[0])[33:]
    return start + header + struct.pack(">I", zlib.crc32(header)) + end


def wide_png() -> bytes:
    return encode(np.zeros((60, 30), np.uint8))


def test_what_cannot_be_read_is_a_row_and_the_others_are_read(tmp_path: Path) -> None:
    bad = write_folder(
        {
            "0.png": encode(FACES.pixels[0]),
            "1.jpg": b"a text",
            "2.png": wide_png(),
            "3.png": b"",
            "4.png": bomb(),
        },
        tmp_path / "bad",
    )
    found = read(bad)
    unknown = "picture can't be read: unknown format"
    assert found.errors == [None, unknown, None, unknown, found.errors[4]]
    assert "Image size (900000000 pixels) exceeds limit" in str(found.errors[4])
    assert found.sides.tolist() == [[48, 48], [30, 60]]
    np.testing.assert_array_equal(found.images[0], FACES.pixels[0])


def test_a_row_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    texts = [" ".join(map(str, face.ravel())) for face in FACES.pixels]
    texts[3] = texts[3].replace(" ", " 256 ", 1)
    faces, table = tmp_path / "faces.csv", tmp_path / "faces.parquet"
    faces.write_bytes(csv_bytes([[text] for text in texts], ["pixels"]))
    columns = parquet_columns(FACES)
    columns["image"][3] = None
    columns["image"][4] = wide_png()
    table.write_bytes(parquet_bytes({"image": columns["image"]}))
    found = read(faces)
    assert found.errors[3] == "a pixel is 256, not 0 to 255"
    np.testing.assert_array_equal(found.images, np.delete(FACES.pixels, 3, axis=0))
    found = read(table)
    assert found.errors[2:5] == [None, "picture can't be read: unknown format", None]
    assert found.sides[3].tolist() == [30, 60]  # a face to predict may have any shape


def test_a_damaged_member_of_a_zip_is_a_row(tmp_path: Path) -> None:
    content = zip_bytes(pictures(FACES), 0)
    at = content.index(encode(FACES.pixels[4])) + 60
    (tmp_path / "faces.zip").write_bytes(content[:at] + b"damage" + content[at + 6 :])
    found = read(tmp_path / "faces.zip")
    assert [place for place, error in enumerate(found.errors) if error] == [4]
    assert "CRC" in str(found.errors[4])


def test_a_name_that_is_no_utf8_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.png")).write_bytes(b"")
    found = read(tmp_path)
    assert found.names == [f"{tmp_path}/a\ufffd.png"]
    pa.array([*found.names, *found.errors])  # which holds no other text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, " is missing: give pictures, folders, a csv, parquet, npz, zip or tar of faces"),
        ({}, " holds no face: give pictures, or a csv, parquet or npz of them"),
        ({"notes.txt": b"a text"}, " holds no face: give pictures"),
        (csv_bytes([["1", "a"]], ["label", "name"]), " has no column 'pixels'"),
        (parquet_bytes({"image": pa.array([], pa.binary())}), " holds no face: it has no row"),
        (parquet_bytes({"name": ["a"]}), " has no column 'image' (its columns: 'name')"),
        (parquet_bytes({"image": [b"a"]})[:-20], " is not a whole parquet file"),
        (only(one_array(FACES))[:40], " is no array that NumPy wrote"),
    ],
    ids=["missing", "empty folder", "no face", "no pixels", "no row", "no image", "cut", "array"],
)
def test_what_holds_no_face_is_refused_before_any_is_read(
    content: bytes | Files | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "faces.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_folder(content, path).mkdir(exist_ok=True)
    (tmp_path / "first.png").write_bytes(encode(FACES.pixels[0]))
    assert refusal(tmp_path / "first.png", path).startswith(f"{path}{says}")


@pytest.mark.parametrize(
    "image", [bytes(40 << 20), pa.array(np.zeros(10_000, np.uint8))], ids=["bytes", "numbers"]
)
def test_a_small_file_that_unpacks_to_much_is_refused(image: object, tmp_path: Path) -> None:
    kind = pa.binary() if isinstance(image, bytes) else pa.list_(pa.uint8())
    column = pa.array([image], kind)
    path = tmp_path / "faces.parquet"
    path.write_bytes(parquet_bytes(pa.table({"image": column}), compression="zstd"))
    assert path.stat().st_size < 10_000
    assert "which faces never do" in refusal(path)


def test_arrays_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "faces.npz", images=np.zeros((2, 48, 48, 3), np.uint8))
    assert "is 2 x 48 x 48 x 3 uint8: faces are N x 48 x 48 uint8" in refusal(
        tmp_path / "faces.npz"
    )


def test_standard_input_without_a_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    assert refusal("-") == "standard input names no picture: give one path a line"


@pytest.mark.slow
def test_no_more_than_a_few_chunks_wait(tmp_path: Path) -> None:
    """So that memory does not grow with the number of faces."""
    path = tmp_path / "faces.parquet"
    faces = [bytes([n % 256]) * 2304 for n in range(5000)]
    path.write_bytes(parquet_bytes({"image": faces}, row_group_size=100))
    (source,) = find_sources([str(path)])
    assert source.faces == 5000
    made: list[Job] = []

    def counted() -> Iterator[Job]:
        for job in inputs._jobs(source, 10):
            made.append(job)
            yield job

    with closing(inputs._in_processes(counted(), 1)) as chunks:
        assert [int(next(chunks).images[0, 0, 0]) for _ in range(3)] == [0, 10, 20]
        assert len(made) == 5

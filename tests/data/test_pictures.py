"""Any picture of a face becomes the same 48x48 pixels wherever it is read, or is refused."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edition_files import OFFICIAL, encode, pictures_by_folder, random_faces, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_pipeline.data.pictures import (
    MAX_FACE_SIDE,
    decode_photo,
    decode_picture,
    face_pixels,
    read_picture,
)
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.errors import DataError
from fer_pipeline.serving.inputs import read_sources
from fer_pipeline.serving.requests import read_request
from fer_pipeline.serving.sources import find_sources

GREY = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
LUMA = np.asarray(Image.fromarray(COLOUR).convert("L"))
WHERE = "faces.zip: train/happy/1.png"


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def refusal(encoded: bytes | None) -> str:
    with pytest.raises(DataError) as refused:
        decode_picture(encoded, WHERE, only_squares=True)
    message = str(refused.value)
    assert message.startswith(f"{WHERE}: picture ")
    assert len(message.splitlines()) == 1
    return message


GREY_PICTURE = Image.fromarray(GREY)
COLOUR_PICTURE = Image.fromarray(COLOUR)
OTHER_PICTURE = Image.fromarray(255 - GREY)


@pytest.mark.parametrize(
    ("encoded", "wanted"),
    [
        (saved(GREY_PICTURE, "BMP"), GREY),
        (saved(GREY_PICTURE, "TIFF", compression="tiff_lzw"), GREY),
        (saved(Image.fromarray(GREY > 127), "PNG"), np.where(GREY > 127, 255, 0)),
        (saved(GREY_PICTURE, "GIF", save_all=True, append_images=[OTHER_PICTURE]), GREY),
    ],
    ids=["BMP", "TIFF, LZW", "black and white", "animated GIF"],
)
def test_a_lossless_picture_gives_its_own_greys(
    encoded: bytes, wanted: np.ndarray[Any, Any]
) -> None:
    pixels, size = decode_picture(encoded, WHERE)
    np.testing.assert_array_equal(pixels, wanted)
    assert (pixels.dtype, size) == (np.uint8, (48, 48))


PALETTE = COLOUR_PICTURE.quantize(256)
LARGE = np.random.default_rng(2).integers(0, 256, (96, 96), np.uint8)
OVER_WHITE = np.where(np.arange(48)[:, None] < 24, 255, GREY)  # the upper half is transparent


def half_transparent() -> Image.Image:
    alpha = np.where(np.arange(48)[:, None] < 24, 0, np.full((48, 48), 255)).astype(np.uint8)
    return Image.merge("LA", (GREY_PICTURE, Image.fromarray(alpha)))


def turned() -> bytes:
    """The picture as a camera on its side stores it, with the note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees clockwise
    return saved(Image.fromarray(np.rot90(GREY)), "PNG", exif=exif)


SAME_EVERYWHERE = {
    "8 bits": (saved(GREY_PICTURE, "PNG"), GREY),
    "16 bits": (encode(GREY.astype(np.uint16) * 256 + 77), GREY),
    "colour": (saved(COLOUR_PICTURE, "PNG"), LUMA),
    "palette": (saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB").convert("L"))),
    "palette with a transparent colour": (saved(GREY_PICTURE.convert("P"), "PNG", transparency=7),
                                          np.where(GREY == 7, 255, GREY)),
    "grey and alpha": (saved(half_transparent(), "PNG"), OVER_WHITE),
    "colour and alpha": (saved(half_transparent().convert("RGBA"), "PNG"), OVER_WHITE),
    "turned by EXIF": (turned(), GREY),
    "96x96 noise": (encode(LARGE), np.rint(LARGE.reshape(48, 2, 48, 2).mean(axis=(1, 3)))),
    "GIF": (saved(GREY_PICTURE, "GIF"), GREY),
    "WebP": (saved(GREY_PICTURE.convert("RGB"), "WEBP", lossless=True), GREY),
}  # fmt: skip
"""Encoded pictures, and the pixels that they stand for."""


def by_ingest(encoded: bytes, folder: Path) -> np.ndarray[Any, Any]:
    files = pictures_by_folder(random_faces())
    files[min(files)] = encoded
    path = write_folder(files, folder / "edition")
    return read_edition(path, OFFICIAL).faces.pixels[0]


def by_command(encoded: bytes, folder: Path) -> np.ndarray[Any, Any]:
    path = folder / "face"
    path.write_bytes(encoded)
    return next(read_sources(find_sources([str(path)]))).images[0]


WAYS: dict[str, Callable[[bytes, Path], np.ndarray[Any, Any]]] = {
    "ingest": by_ingest,
    "fer predict": by_command,
    "fer app": lambda encoded, _: face_pixels(decode_photo(encoded, WHERE)),
    "served model": lambda encoded, _: read_request([base64.b64encode(encoded).decode()])[0],
}


@pytest.mark.parametrize("kind", SAME_EVERYWHERE)
def test_a_picture_gives_the_same_pixels_wherever_it_is_read(kind: str, tmp_path: Path) -> None:
    encoded, wanted = SAME_EVERYWHERE[kind]
    decoded, _ = decode_picture(encoded, WHERE)
    assert np.abs(decoded.astype(int) - wanted).max() <= (kind == "96x96 noise")  # of rounding
    for way, read in WAYS.items():
        np.testing.assert_array_equal(read(encoded, tmp_path), decoded, err_msg=way)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_gives_its_greys_within_what_the_format_loses(mode: str) -> None:
    smooth = np.add.outer(np.arange(48), 2 * np.arange(48)).astype(np.uint8)
    encoded = saved(Image.fromarray(smooth).convert(mode), "JPEG", quality=95)
    pixels, _ = decode_picture(encoded, WHERE)
    assert np.abs(pixels.astype(int) - smooth).max() <= 4


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", size) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        (encode(np.zeros((48, 47), np.uint8)), "47x48: only squares"),
        (png_of(MAX_FACE_SIDE + 1, MAX_FACE_SIDE + 1), f"of up to {MAX_FACE_SIDE} pixels"),
        (png_of(30_000, 30_000), "can't be read: Image size (900000000 pixels)"),
        (png_of(48, 48, zlib.compress(bytes(100))), "can't be read"),
        (png_of(48, 48)[:8] + png_chunk(b"IHDR", b"\0\0"), "can't be read"),
        (encode(GREY, "JPEG")[:200], "can't be read"),
        (encode(np.ones((48, 48), np.float32), "TIFF"), "can't be read: 32 bits a pixel (mode F)"),
        (saved(COLOUR_PICTURE, "EPS"), "can't be read: unknown format"),
        (saved(COLOUR_PICTURE, "DDS"), "can't be read: unknown format"),
        (encode(GREY.astype(np.uint16)), "can't be read: its 16 bits hold values up to 255"),
        (b"<html>not found</html>", "can't be read: unknown format"),
        (None, "can't be read: unknown format"),
    ],
    ids=[
        "47x48", "1025x1025", "900 million pixels", "little data", "short header", "cut JPEG",
        "32-bit floats", "a program in PostScript", "DDS", "8 bits in 16", "HTML", "nothing",
    ],
)  # fmt: skip
def test_a_corrupt_picture_is_refused(encoded: bytes | None, says: str) -> None:
    assert says in refusal(encoded)


KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF")
SOUND = [encode(GREY, kind) for kind in KINDS]


@given(
    encoded=st.sampled_from(SOUND), place=st.integers(0, 1500), byte=st.integers(0, 255),
    end=st.none() | st.integers(0, 2400),
)  # fmt: skip
@settings(deadline=None, max_examples=60, derandomize=True)
def test_a_damaged_picture_is_a_face_or_refused(
    encoded: bytes, place: int, byte: int, end: int | None
) -> None:
    damaged = bytearray(encoded)
    damaged[place % len(damaged)] = byte
    try:
        pixels, _ = decode_picture(bytes(damaged[:end]), WHERE)
    except DataError as error:
        message = str(error)
    else:
        assert (pixels.shape, pixels.dtype) == ((48, 48), np.uint8)
        return
    assert len(message.splitlines()) == 1


PROGRESSIVE = saved(GREY_PICTURE, "JPEG", progressive=True)


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    last = PROGRESSIVE.rindex(b"\xff\xda")
    return PROGRESSIVE[:last] + PROGRESSIVE[last:-2] * count + PROGRESSIVE[-2:]


def test_a_jpeg_is_decoded_only_if_it_has_few_scans() -> None:
    """Each scan costs as much as the picture: 25 million pixels in 2,000 take half a minute."""
    assert "picture has more than 64 scans" in refusal(with_scans(100))
    assert decode_picture(with_scans(20), WHERE)[0].shape == (48, 48)
    sound = decode_picture(PROGRESSIVE, WHERE)[0]
    # What a telephone appends, such as a film, is no scan of the picture.
    film = PROGRESSIVE + b"\xff\xda" * 100
    np.testing.assert_array_equal(decode_picture(film, WHERE)[0], sound)


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 48x48 pixels that lie in one tile, of `side` by `side`."""
    data = zlib.compress(bytes(side * side))
    tags = {256: 48, 257: 48, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 325: len(data)}
    tags[324] = 14 + 12 * (len(tags) + 1)  # where the tile begins
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + struct.pack("<I", 0) + data


def test_a_tiff_is_decoded_only_if_its_tiles_are_no_larger_than_a_picture() -> None:
    assert (decode_picture(tiled_tiff(64), WHERE)[0] == 0).all()
    assert "picture is in tiles, more than 25,000,000 pixels" in refusal(tiled_tiff(5_008))


@pytest.mark.parametrize("shape", [(30, 100), (7, 7)])
def test_a_users_picture_of_any_shape_is_resized(shape: tuple[int, int]) -> None:
    picture = np.full(shape, 90, np.uint8)
    picture[:, shape[1] // 2 :] = 200
    pixels, size = decode_picture(encode(picture), WHERE)
    assert (pixels.shape, size) == ((48, 48), shape[::-1])
    assert (pixels[:, :20] == 90).all()
    assert (pixels[:, 30:] == 200).all()


def test_a_users_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    for width, height in ((5_001, 5_000), (30_000, 30_000)):
        with pytest.raises(DataError, match=rf"^{WHERE}: picture .*[0-9]"):
            decode_picture(png_of(width, height), WHERE)


def test_damaged_exif_does_not_hide_a_whole_picture() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = 6
    encoded = saved(Image.new("L", (48, 48), 90), "JPEG", exif=exif)
    # The maker's name under the number of the picture's width; another kind of note altogether.
    for whole, wrong in ((b"\x01\x0f\0\x02", b"\x01\x00\0\x02"), (b"Exif\0\0MM", b"Exif\0\0ZZ")):
        damaged = encoded.replace(whole, wrong, 1)
        assert damaged != encoded
        grey = decode_picture(damaged, WHERE)[0]
        np.testing.assert_allclose(grey, np.full((48, 48), 90), atol=1)


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as missing:
        read_picture(tmp_path / "away.png")
    assert str(missing.value) == f"{tmp_path / 'away.png'} is missing: give the path of a picture"
    with pytest.raises(DataError, match=f"^{tmp_path}: picture can't be read: "):
        read_picture(tmp_path)

"""Any picture of a face becomes 48x48 greys, or is refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from edition_files import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_pipeline.data.pictures import MAX_SIDE, decode_face
from fer_pipeline.errors import DataError

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
        decode_face(encoded, WHERE)
    message = str(refused.value)
    assert message.startswith(f"{WHERE}: image ")
    assert len(message.splitlines()) == 1
    return message


GREY_PICTURE = Image.fromarray(GREY)
COLOUR_PICTURE = Image.fromarray(COLOUR)
OTHER_PICTURE = Image.fromarray(255 - GREY)


@pytest.mark.parametrize(
    ("encoded", "wanted"),
    [
        (saved(GREY_PICTURE, "PNG"), GREY),
        (saved(GREY_PICTURE, "BMP"), GREY),
        (saved(GREY_PICTURE, "GIF"), GREY),
        (saved(GREY_PICTURE, "TIFF"), GREY),
        (saved(GREY_PICTURE, "TIFF", compression="tiff_lzw"), GREY),
        (saved(GREY_PICTURE.convert("RGB"), "WEBP", lossless=True), GREY),
        (saved(GREY_PICTURE.convert("RGB"), "PNG"), GREY),
        (saved(GREY_PICTURE.convert("RGBA"), "PNG"), GREY),
        (saved(GREY_PICTURE.convert("LA"), "PNG"), GREY),
        (saved(GREY_PICTURE.convert("P"), "PNG"), GREY),
        (saved(Image.fromarray(GREY > 127), "PNG"), np.where(GREY > 127, 255, 0)),
        (saved(COLOUR_PICTURE, "PNG"), LUMA),
        (saved(COLOUR_PICTURE.convert("RGBA"), "PNG"), LUMA),
        (saved(GREY_PICTURE, "GIF", save_all=True, append_images=[OTHER_PICTURE]), GREY),
        (saved(GREY_PICTURE, "PNG", save_all=True, append_images=[OTHER_PICTURE]), GREY),
    ],
    ids=[
        "PNG", "BMP", "GIF", "TIFF", "TIFF, LZW", "WebP", "grey as RGB", "grey as RGBA",
        "grey with alpha", "palette", "black and white", "RGB", "RGBA", "animated GIF",
        "animated PNG",
    ],
)  # fmt: skip
def test_a_lossless_picture_gives_its_own_greys(
    encoded: bytes, wanted: np.ndarray[Any, Any]
) -> None:
    pixels, resized = decode_face(encoded, WHERE)
    np.testing.assert_array_equal(pixels, wanted)
    assert (pixels.dtype, resized) == (np.uint8, False)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_gives_its_greys_within_what_the_format_loses(mode: str) -> None:
    smooth = np.add.outer(np.arange(48), 2 * np.arange(48)).astype(np.uint8)
    encoded = saved(Image.fromarray(smooth).convert(mode), "JPEG", quality=95)
    pixels, _ = decode_face(encoded, WHERE)
    assert np.abs(pixels.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("factor", [256, 257])
def test_16_bits_of_grey_are_scaled_and_not_cut_off(kind: str, factor: int) -> None:
    pixels, _ = decode_face(encode(GREY.astype(np.uint16) * factor, kind), WHERE)
    np.testing.assert_array_equal(pixels, GREY)


@pytest.mark.parametrize("times", [2, 5, 20])
def test_an_enlarged_face_comes_back_exactly_and_is_told(times: int) -> None:
    pixels, resized = decode_face(encode(np.kron(GREY, np.ones((times, times), np.uint8))), WHERE)
    np.testing.assert_array_equal(pixels, GREY)
    assert resized


def test_16_bits_are_scaled_in_a_picture_of_another_size_too() -> None:
    large = np.kron(GREY, np.ones((2, 2), np.uint8)).astype(np.uint16) * 257
    pixels, resized = decode_face(encode(large), WHERE)
    np.testing.assert_array_equal(pixels, GREY)
    assert resized


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
        (encode(np.zeros((100, 50), np.uint8)), "50x100: only squares"),
        (png_of(MAX_SIDE + 1, MAX_SIDE + 1), f"of up to {MAX_SIDE} pixels"),
        (png_of(10_000, 10_000), "can't be read: Image size (100000000 pixels)"),
        (png_of(30_000, 30_000), "can't be read: Image size (900000000 pixels)"),
        (png_of(48, 48), "can't be read"),
        (png_of(48, 48, zlib.compress(bytes(100))), "can't be read"),
        (png_of(48, 48, b"x\x9cjunk"), "can't be read"),
        (png_of(48, 48)[:8] + png_chunk(b"IHDR", b"\0\0"), "can't be read"),
        (encode(GREY)[:200], "can't be read"),
        (encode(GREY, "JPEG")[:200], "can't be read"),
        (encode(GREY).replace(b"IDAT", b"I AT"), "can't be read"),
        (encode(np.ones((48, 48), np.float32), "TIFF"), "can't be read: 32 bits a pixel (mode F)"),
        (encode(np.ones((48, 48), np.int32), "TIFF"), "can't be read: 32 bits a pixel (mode I)"),
        (saved(COLOUR_PICTURE, "EPS"), "can't be read: cannot identify image file"),
        (b"<html>not found</html>", "can't be read: cannot identify image file"),
        (GREY.tobytes(), "can't be read: cannot identify image file"),
        (b"", "can't be read: cannot identify image file"),
        (None, "can't be read: cannot identify image file"),
    ],
    ids=[
        "47x48", "50x100", "1025x1025", "100 million pixels", "900 million pixels", "no data",
        "little data", "junk data", "short header", "cut PNG", "cut JPEG", "unknown chunk",
        "32-bit floats", "32-bit numbers", "a program in PostScript", "HTML", "raw pixels",
        "0 bytes", "nothing",
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
@settings(deadline=None, max_examples=300)
def test_a_damaged_picture_is_a_face_or_refused(
    encoded: bytes, place: int, byte: int, end: int | None
) -> None:
    damaged = bytearray(encoded)
    damaged[place % len(damaged)] = byte
    try:
        pixels, _ = decode_face(bytes(damaged[:end]), WHERE)
    except DataError as error:
        message = str(error)
    else:
        assert (pixels.shape, pixels.dtype) == ((48, 48), np.uint8)
        return
    assert len(message.splitlines()) == 1

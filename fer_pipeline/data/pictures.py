"""One encoded picture (PNG, JPEG, …) as a 48x48 grey image: the only decoder of the project.

Ingest, `fer predict`, the served model and the page of `fer app` all read with it, so that the same
file gives the same pixels wherever it is read. In this order:

    orientation    as the camera noted it (EXIF); as stored, where the note is damaged
    transparency   laid over white, as a page would show it
    colour         luma, 0.299 R + 0.587 G + 0.114 B; a palette gives its colours first
    16 bits        the upper eight
    size           resized to 48x48 by the mean of the pixels that a new pixel covers (box filter)

Of an animation, the first frame is read.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fer_pipeline.data.faces import SIDE, UInt8Array
from fer_pipeline.errors import DataError, one_line

MAX_PIXELS = 25_000_000
"""The largest picture that is decoded, as width times height: a small file can claim any size."""

MAX_PICTURE_BYTES = 128 << 20
"""The largest file of a picture that somebody asks about: `MAX_PIXELS` of them, not compressed."""

MAX_FACE_BYTES = 8 << 20
"""The largest file of one face of a data set."""

MAX_FACE_SIDE = 1024
"""The largest side of a face of a data set; a larger picture is hardly a copy of FER2013."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
"""The formats that are tried: Pillow knows many more, and runs Ghostscript for one of them."""

MAX_SCANS = 64
"""Passes over the picture in one JPEG; a progressive one has about ten."""

Size = tuple[int, int]
"""Width and height of a picture that is upright."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_BAND = 256

_UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)
"""What Pillow raises on bytes that are no picture, or far too large a one."""


def decode_picture(
    encoded: bytes | None, where: str, *, only_squares: bool = False
) -> tuple[UInt8Array, Size]:
    """Decode one picture of a face.

    Args:
        encoded: the file's bytes.
        where: what an error calls it, such as `faces.zip: train/happy/1.png`.
        only_squares: refuse what is not square, or larger than `MAX_FACE_SIDE`, as no face of
            FER2013. Without it a picture of any shape is resized to a square.

    Returns:
        (48, 48) uint8 pixels, and the size that the picture had before it was brought to that.

    Raises:
        DataError: no picture, too large, or not square where it must be.
    """
    with _decoded(encoded or b"", where, only_squares) as picture:
        grey = _opaque(picture, "L")
        return face_pixels(grey), grey.size


def decode_photo(encoded: bytes, where: str) -> Image.Image:
    """Decode a photograph in its own size: upright, in colour, nothing transparent.

    `face_pixels` of all of it are those of `decode_picture`.

    Raises:
        DataError: no picture, or too large.
    """
    with _decoded(encoded, where, only_squares=False) as picture:
        return _opaque(picture, "RGB")


def face_pixels(picture: Image.Image) -> UInt8Array:
    """(48, 48) uint8 of a decoded picture, or of the part of it that shows a face."""
    grey = picture.convert("L")
    if grey.size == (SIDE, SIDE):
        return np.asarray(grey)
    # With a box filter, a face that was enlarged by a whole number comes back exactly.
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def read_picture(path: Path) -> tuple[UInt8Array, Size]:
    """A user's picture of any shape, as `decode_picture` gives it.

    Raises:
        DataError: the file is missing, or no picture.
    """
    try:
        with path.open("rb") as stream:
            encoded = stream.read(MAX_PICTURE_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the path of a picture") from None
    except OSError as error:
        raise DataError(f"{path}: picture can't be read: {error.strerror}") from error
    if len(encoded) > MAX_PICTURE_BYTES:
        raise DataError(f"{path}: picture has more than {MAX_PICTURE_BYTES >> 20} MiB")
    return decode_picture(encoded, str(path))


def count_pixels(encoded: bytes) -> int:
    """How many pixels a picture says that it has; 0 where it is none."""
    try:
        with _open(encoded) as picture:
            return picture.width * picture.height
    except _UNREADABLE:
        return 0


@contextmanager
def _decoded(encoded: bytes, where: str, only_squares: bool) -> Iterator[Image.Image]:
    """The picture, upright, if it is cheap enough; what Pillow raises on it becomes one line."""
    try:
        with _open(encoded) as picture:
            _require_cheap(picture, encoded, where, only_squares)
            yield _turn_upright(picture)
    except _UNREADABLE as error:
        # Pillow's own words for an unknown format name a stream in memory.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else one_line(error)
        raise DataError(f"{where}: picture can't be read: {reason}") from error


@contextmanager
def _open(encoded: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        # About damage beside the pixels, and about sizes, which are limited here.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            yield picture


def _require_cheap(picture: Image.Image, encoded: bytes, where: str, only_squares: bool) -> None:
    """Refuse by what the file says of its sizes, before anything is decoded."""
    width, height = picture.size
    if only_squares and (width != height or width > MAX_FACE_SIDE):
        raise DataError(
            f"{where}: picture is {width}x{height}: only squares of up to {MAX_FACE_SIDE} pixels "
            f"can be brought to {SIDE}x{SIDE}"
        )
    tags = getattr(picture, "tag_v2", {})  # a TIFF's tile may be far larger than the picture
    tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
    for what, pixels in ((f"{width}x{height}", width * height), ("in tiles", tile)):
        if pixels > MAX_PIXELS:
            raise DataError(
                f"{where}: picture is {what}, more than {MAX_PIXELS:,} pixels: make it smaller"
            )
    if encoded.startswith(_JPEG_START) and _scans(encoded) > MAX_SCANS:
        raise DataError(
            f"{where}: picture has more than {MAX_SCANS} scans, each of which would be decoded: "
            f"save it again"
        )


def _scans(jpeg: bytes) -> int:
    """How often a JPEG describes the whole picture; no more than `MAX_SCANS + 1` are counted."""
    at, scans = 2, 0
    while scans <= MAX_SCANS and (found := _MARKER.search(jpeg, at)) and found[0] != _JPEG_END:
        scans += found[0] == _JPEG_SCAN
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
    return scans


def _turn_upright(picture: Image.Image) -> Image.Image:
    picture.load()  # so that damage of the pixels is not taken for that of the note
    try:
        if picture.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return picture
        return ImageOps.exif_transpose(picture)
    except (struct.error, TypeError, SyntaxError, ValueError, KeyError, OSError):
        return picture  # the note on orientation is damaged


def _opaque(picture: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """8 bits of grey or colour; Pillow would cut 16 bits off at 255 and ignore transparency."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if 0 < values.max() <= 255:  # all would become black
            raise ValueError("its 16 bits hold values up to 255: save it with 8 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
    if picture.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {picture.mode}) have no known white")
    if not picture.has_transparency_data:
        return picture.convert(mode)
    opaque = Image.new(mode, picture.size)
    for top in range(0, picture.height, _BAND):  # in bands, for a copy in colour takes memory
        band = picture.crop((0, top, picture.width, min(top + _BAND, picture.height)))
        white = Image.new("RGBA", band.size, "white")
        opaque.paste(Image.alpha_composite(white, band.convert("RGBA")).convert(mode), (0, top))
    return opaque

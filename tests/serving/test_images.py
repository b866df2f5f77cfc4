"""Pictures of any kind become 48x48 greys; what is no picture is named."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_pipeline.errors import DataError
from fer_pipeline.serving.images import read_images


def save(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def test_a_48x48_grey_picture_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / "face.png")
    found = read_images([path])
    assert found.shape == (1, 48, 48)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], pixels)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tiff"])
def test_every_usual_format_is_read(suffix: str, tmp_path: Path) -> None:
    path = save(Image.new("L", (100, 60), 90), tmp_path / f"face.{suffix}")
    np.testing.assert_allclose(read_images([path])[0], np.full((48, 48), 90), atol=1)


@pytest.mark.parametrize(
    ("mode", "colour", "grey"),
    [
        ("RGB", (255, 0, 0), 76),
        ("RGB", (0, 255, 0), 150),
        ("RGBA", (0, 0, 255, 255), 29),
        ("CMYK", (0, 0, 0, 0), 255),
        ("1", 1, 255),
        ("P", 0, 0),
    ],
)
def test_colours_become_their_luma(
    mode: str, colour: int | tuple[int, ...], grey: int, tmp_path: Path
) -> None:
    path = save(Image.new(mode, (48, 48), colour), tmp_path / "face.tiff")
    assert np.unique(read_images([path])).tolist() == [grey]


def test_a_large_picture_is_averaged_and_not_sampled(tmp_path: Path) -> None:
    """Stripes of one pixel become an even grey in the middle."""
    stripes = np.tile(np.array([0, 255], np.uint8), (480, 240))
    path = save(Image.fromarray(stripes), tmp_path / "face.png")
    middle = read_images([path])[0, 4:-4, 4:-4]
    assert middle.min() >= 120
    assert middle.max() <= 135


def test_pictures_keep_their_order_whatever_their_shapes(tmp_path: Path) -> None:
    paths = [
        save(Image.new("L", (10 * grey, 30), grey), tmp_path / f"{grey}.png")
        for grey in (30, 10, 20)
    ]
    assert read_images(paths)[:, 24, 24].tolist() == [30, 10, 20]


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    here = save(Image.new("L", (48, 48)), tmp_path / "here.png")
    with pytest.raises(DataError) as refused:
        read_images([here, tmp_path / "away.png"])
    assert str(refused.value) == f"{tmp_path / 'away.png'} is missing: give the path of a picture"


@pytest.mark.parametrize("content", [b"", b"a letter", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0"])
def test_what_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_images([path])
    assert str(refused.value).startswith(f"{path} is no picture that can be read: ")


def test_a_cut_off_picture_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    path = save(Image.fromarray(noise), tmp_path / "face.png")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match="is no picture that can be read"):
        read_images([path])


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no picture that can be read"):
        read_images([tmp_path])


def test_a_picture_of_900_million_pixels_is_refused(tmp_path: Path) -> None:
    size = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (size, b"IDAT")
    ]
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(DataError, match=r"huge\.png"):
        read_images([path])


def test_a_picture_is_turned_upright_as_its_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((48, 48), np.uint8)
    pixels[:24] = 200  # bright above
    image = Image.fromarray(np.rot90(pixels))  # as a camera on its side sees it
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    image.save(tmp_path / "phone.png", exif=exif)
    found = read_images([tmp_path / "phone.png"])[0]
    assert found[:20].mean() > 190
    assert found[28:].mean() < 10


def test_damaged_exif_does_not_hide_a_whole_picture(tmp_path: Path) -> None:
    image = Image.new("L", (48, 48), 90)
    exif = image.getexif()
    exif[0x010F] = "maker"
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    image.save(path, exif=exif)
    # The maker's name under the number of the picture's width.
    path.write_bytes(path.read_bytes().replace(b"\x01\x0f\0\x02", b"\x01\x00\0\x02", 1))
    np.testing.assert_allclose(read_images([path])[0], np.full((48, 48), 90), atol=1)

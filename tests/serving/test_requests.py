"""What a client may send, and what it is told otherwise."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fer_pipeline.data import pictures
from fer_pipeline.errors import RequestError
from fer_pipeline.serving import requests as requests_module
from fer_pipeline.serving.requests import MAX_IMAGES, read_request

FACES = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str = "L") -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_whole_numbers_of_any_type_are_pixels(dtype: type) -> None:
    for content in (FACES.astype(dtype), FACES.astype(dtype).tolist()):
        found = read_request(content)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, FACES)


@pytest.mark.parametrize("as_array", [True, False])
def test_pictures_are_their_pixels_whatever_their_colours(as_array: bool) -> None:
    sent = [encode(FACES[0]), encode(FACES[1], mode="RGB"), encode(FACES[2], mode="RGBA")]
    content = np.array(sent, dtype=object) if as_array else sent
    np.testing.assert_array_equal(read_request(content), FACES)


def test_a_data_url_is_a_picture() -> None:
    found = read_request([f"data:image/png;base64,{encode(FACES[0])}"])
    np.testing.assert_array_equal(found, FACES[:1])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (FACES[0], "shape 48 x 48: .* a list around one image too"),
        (FACES[..., None], "shape 3 x 48 x 48 x 1"),
        (FACES[:, :47], "shape 3 x 47 x 48"),
        ([[[1, 2], [3]]], "image 0 is not 48 lists of 48 numbers"),
        (FACES[0].tolist(), "image 0 is not .* a list around one image too"),
        ([*FACES.tolist(), 7], "image 3 is not 48 lists"),
        ([[*FACES[0].tolist()[:47], [1, 2]]], "image 0 is not 48"),
        ([[*FACES[0].tolist()[:47], [True] * 48]], "image 0 is not 48"),
        ([[*FACES[0].tolist()[:47], ["1"] * 48]], "image 0 is not 48"),
        ([[[10**400] * 48] * 48], "a pixel of more than 300 digits"),
        ([FACES[0].tolist()] * (MAX_IMAGES + 1), "1025 images in one request"),
        (FACES[:0], "no images"),
        ([], "no images"),
        (5, "no images"),
        (np.array(5), "shape a single number"),
        (FACES.astype(int) - 1, "pixels from -1 to"),
        (FACES.astype(int) + 1, "pixels from .* to 256"),
        (FACES / 255, "pixels from 0 to 1"),
        (np.full((1, 48, 48), np.nan), "pixels from nan"),
        (FACES > 3, "image 0 is not 48"),
        ({"a": 1}, "no images"),
        (None, "no images"),
        (["@@"], "image 0 is no base64"),
        (
            [encode(FACES[0]), base64.b64encode(b"GIF89a").decode()],
            "image 1: picture can't be read",
        ),
        ([base64.b64encode(b"no picture").decode()], "picture can't be read: unknown format"),
        ([encode(FACES[0])[:60]], "image 0: picture can't"),
        ([[encode(FACES[0])]], "image 0 is not 48"),
        ([encode(FACES[0]), 5], "image 1 is no text among pictures"),
        (np.zeros((MAX_IMAGES + 1, 48, 48), np.uint8), "1025 images in one request"),
    ],
)
def test_anything_else_is_refused_and_told_why(content: object, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        read_request(content)


def test_large_pictures_are_refused_before_they_are_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 48 * 48 - 1)
    with pytest.raises(RequestError, match="image 0: picture is 48x48, more than 2,303 pixels"):
        read_request([encode(FACES[0])])
    monkeypatch.setattr(requests_module, "MAX_PICTURE_BYTES", 100)
    with pytest.raises(RequestError, match="image 0 has more than 0 MiB"):
        read_request([encode(FACES[0])])


def test_pictures_of_many_pixels_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand small files of 25 million pixels each would take a server for minutes."""
    monkeypatch.setattr(requests_module, "MAX_PIXELS", 3 * 48 * 48)
    assert len(read_request([encode(FACES[0])] * 3)) == 3
    with pytest.raises(RequestError, match="more than 6,912 pixels in one request: send fewer"):
        read_request([encode(FACES[0])] * 4)

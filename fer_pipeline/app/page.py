"""The page of `fer app`, a script that Streamlit runs anew whenever somebody changes something."""

from __future__ import annotations

import numpy as np
import streamlit as st
from PIL import Image
from plotly.graph_objects import Figure

from fer_pipeline.app.photo import (
    Box,
    centre,
    chances_bars,
    clip,
    cover,
    find_faces,
    map_falls,
    mark,
    tint,
)
from fer_pipeline.app.server import shown
from fer_pipeline.arrays import Float32Array, FloatArray, UInt8Array
from fer_pipeline.data.faces import SIDE
from fer_pipeline.data.pictures import decode_photo, face_pixels
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.serving.predictor import Prediction

ENDINGS = ["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"]

CLOSE = 0.1
"""Two probabilities that differ by less are called too close to tell."""

FACE_WIDTH = 144
"""Width of a face on the page: two of them fit a phone."""

OWN, WHOLE = "A box of my own", "The whole picture"

LIMITS = """
- It names what a face **looks like** to the people who labelled FER2013, not what a person feels.
- It knows seven expressions of faces seen from the front, and always names one of them, also where
  there is no face.
- It errs more often on some groups of people than on others, and nobody has measured how much.
  **Decide nothing about a person by it.** The EU's AI Act (article 5) forbids systems that infer
  emotions at work and in schools, save for medicine and safety.
"""


def main() -> None:
    """Ask for a picture, then for the face in it, and show what the model says of it."""
    st.set_page_config(page_title="FER Fusion", page_icon="🙂")
    st.title("What does this face express?")
    st.caption(
        f"Answers by {shown().name}, on this machine: pictures are neither stored nor sent on."
    )
    with st.expander("What it is not for"):
        st.markdown(LIMITS)
    picture = ask_picture()
    if picture is None:
        return
    name, encoded = picture
    try:
        photo, faces = look(name, encoded)
    except DataError as error:
        st.error(f"{error}: give a PNG or JPEG")
        return
    face = ask_face(photo, faces, key=hash(encoded))
    prediction = predict(face.tobytes())
    show_prediction(prediction)
    show_occlusion(face, prediction.probabilities[0])
    show_singles(prediction)


def ask_picture() -> tuple[str, bytes] | None:
    """Name and bytes of the picture that was given, if one was."""
    ways = ["File", "Paste", "Camera"]
    way = st.segmented_control("Picture from", ways, default="File", required=True)
    if way == "Paste":
        return ask_pasted()
    if way == "Camera":
        taken = st.camera_input("A photo of a face")
        return None if taken is None else ("the photo", taken.getvalue())
    given = st.file_uploader("Choose a picture, or drop it here", ENDINGS)
    return None if given is None else (given.name, given.getvalue())


def ask_pasted() -> tuple[str, bytes] | None:
    """What was pasted last: unlike other inputs, this one gives its file only once."""
    sent = st.container().chat_input(
        "Paste a picture here, and send it", accept_file=True, file_type=ENDINGS
    )
    if sent and sent.files:
        st.session_state["pasted"] = (sent.files[0].name, sent.files[0].getvalue())
    pasted: tuple[str, bytes] | None = st.session_state.get("pasted")
    return pasted


def ask_face(photo: Image.Image, faces: list[Box], key: int) -> UInt8Array:
    """The (48, 48) face that was chosen, in the box as it was corrected; the key is the photo's."""
    if not faces:
        st.info("No face was found: the whole picture is taken. You can also set a box yourself.")
    boxes = [*faces, centre(photo.size)]
    places = {f"Face {place}": place - 1 for place in range(1, len(faces) + 1)} | {OWN: len(faces)}
    labels = [*places, WHOLE]
    drawn = st.container()
    choice = st.pills("Which face?", labels, default=labels[0] if faces else WHOLE, required=True)
    if choice == WHOLE:
        drawn.image(mark(photo, faces, -1))
        return face_pixels(photo)
    place = places[choice]
    boxes[place] = ask_box(boxes[place], photo.size, f"{choice} {key}")
    drawn.image(mark(photo, boxes if choice == OWN else boxes[:-1], place))
    return face_pixels(photo.crop(boxes[place].corners))


def ask_box(box: Box, size: tuple[int, int], key: str) -> Box:
    """The box as sliders correct it."""
    with st.expander("Correct the box"):
        left = st.slider("Left", 0, size[0], box.left, key=f"left {key}")
        top = st.slider("Top", 0, size[1], box.top, key=f"top {key}")
        side = st.slider("Size", 1, min(size), box.side, key=f"side {key}")
    return clip(Box(left, top, side), size)


def show_prediction(prediction: Prediction) -> None:
    """The fused model's probabilities, and how sure it is."""
    chances, temperature = prediction.probabilities[0], shown().predictor.spec.temperature
    st.subheader("The fused model")
    st.markdown(how_sure(chances))
    show_bars(chances_bars(chances, 280), "fused")
    st.caption(
        f"Calibrated (temperature {temperature:.2f}): of 100 answers that are "
        f"{percent(chances.max())} sure, about {100 * chances.max():.0f} are right, on pictures "
        "like FER2013's."
    )


def how_sure(chances: Float32Array) -> str:
    """What (7,) probabilities say, in a sentence."""
    first, second = np.argsort(-chances, kind="stable")[:2]
    said = f"**{EMOTIONS[first].capitalize()}**, {percent(chances[first])} sure"
    runner_up = f"{EMOTIONS[second]} with {percent(chances[second])}"
    if chances[first] - chances[second] < CLOSE:
        return f"{said}, hardly ahead of {runner_up}: too close to tell."
    return f"{said}; next comes {runner_up}."


def percent(fraction: float) -> str:
    """A fraction as people read it."""
    return f"{100 * fraction:.0f}\u00a0%"


def show_occlusion(face: UInt8Array, chances: Float32Array) -> None:
    """The face as the networks see it, and where covering it changes the answer."""
    st.subheader("Where it looked")
    code = int(chances.argmax())
    falls = occlude(face.tobytes(), code)
    enlarged = (FACE_WIDTH, FACE_WIDTH)
    captions = {"What the networks see": face, "Orange: what it rests on": tint(face, falls)}
    with st.container(horizontal=True):
        for caption, pixels in captions.items():
            picture = Image.fromarray(pixels).resize(enlarged, Image.Resampling.NEAREST)
            st.image(picture, caption, width=FACE_WIDTH)
    st.caption(
        f"Parts of the face were covered one after the other. Where it is most orange, that lowers "
        f"the probability of {EMOTIONS[code]} by {100 * max(0.0, falls.max()):.0f} points."
    )


def show_singles(prediction: Prediction) -> None:
    """The probabilities by each network alone."""
    st.subheader("Each network by itself")
    members = shown().predictor.spec.members
    singles = prediction.single_probabilities
    for column, member in zip(st.columns(len(members)), members, strict=True):
        with column:
            st.markdown(f"**{member.name}**, weight {member.weight:.2f}")
            show_bars(chances_bars(singles[member.name][0], 220), member.name)
    st.caption(
        "Not calibrated: how sure a network is of itself says less than for the fused model."
    )


def show_bars(figure: Figure, key: str) -> None:
    """A figure as it is: nothing to zoom or to press."""
    st.plotly_chart(figure, theme=None, key=key, config={"displayModeBar": False})


@st.cache_resource(max_entries=4, show_spinner="Looking for faces …")
def look(name: str, encoded: bytes) -> tuple[Image.Image, list[Box]]:
    """The photograph, and the faces in it."""
    photo = decode_photo(encoded, name)
    return photo, find_faces(photo)


@st.cache_resource(max_entries=16, show_spinner="Looking at the face …")
def predict(face: bytes) -> Prediction:
    """What the model says of one face."""
    return shown().predictor.predict(_image(face)[np.newaxis])


@st.cache_resource(max_entries=16, show_spinner="Covering parts of the face …")
def occlude(face: bytes, code: int) -> FloatArray:
    """(48, 48), how much the probability of an emotion falls where the face is covered."""
    image = _image(face)
    chances = shown().predictor.predict(np.stack([image, *cover(image)])).probabilities
    return map_falls(float(chances[0, code]), chances[1:, code])


def _image(face: bytes) -> UInt8Array:
    return np.frombuffer(face, np.uint8).reshape(SIDE, SIDE).copy()  # torch wants it writable


if __name__ == "__main__":
    main()

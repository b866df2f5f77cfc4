"""The built-in sample: SYNTHETIC 48x48 grey faces with FER2013's seven expressions.

The faces are cartoons drawn by code, so that the whole pipeline can run in minutes with no
download. No person's face is used, measured or imitated, and a score on them says nothing about
real faces.

The sample mirrors, in small and in exact numbers, the faults that FER2013 is known for:

    copies       round(0.04 * n) images of a PublicTest or PrivateTest split of n >= 100 images
                 have the very pixels of a training image
    conflicts    round(0.2 * copies) of these carry another label than the training image
    constant     one training image has a single grey, where train >= 200

Lengths are pixels of the final image from the middle of the face, x to the right, y downwards.
Faces are drawn four times as large and then photographed: turned, lit, blurred.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from fer_pipeline.data.faces import SIDE, USAGES, Faces, Int64Array, UInt8Array
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.errors import DataError

SAMPLE_VERSION = "2"
"""The version that `data/source.lock.yaml` pins. Raise it whenever the drawn pixels change."""

CLASS_SHARES = np.array([0.139, 0.050, 0.143, 0.251, 0.168, 0.110, 0.173])
"""FER2013's class proportions, except disgust: its 0.015 would leave too few to learn from."""

MIN_INTENSITY = 0.55
"""The weakest expression drawn, as a share of the full one; it overlaps with its neighbours."""

Points = npt.NDArray[np.float64] | list[tuple[float, float]]
"""An outline or a stroke, of shape (K, 2)."""

Drawn = tuple[UInt8Array, npt.NDArray[np.int8]]
"""Images of shape (N, 48, 48) and their labels."""


@dataclass(frozen=True)
class Pulls:
    """How far the muscles of a face pull away from rest, after the units of the Facial Action
    Coding System (Ekman and Friesen 1978). All numbers here are invented, not measured."""

    brow_raise: float = 0.0  # AU2, px up
    brow_inner: float = 0.0  # AU1 (px up) against AU4 (px down), at the inner ends
    brow_gather: float = 0.0  # AU4, px towards the nose
    lid_open: float = 0.0  # AU5, px added to the opening of the eye
    lid_squint: float = 0.0  # AU6 and AU7, px that the lower lid rises
    nose_wrinkle: float = 0.0  # AU9, 0 to 1
    lip_corner: float = 0.0  # AU12 (px up) against AU15 (px down)
    lip_stretch: float = 0.0  # AU20, px added to each half of the mouth
    lip_part: float = 0.0  # AU25 to AU27, px that the mouth opens
    lip_skew: float = 0.0  # px that one corner stands above the other
    teeth: float = 0.0  # share of the opening that teeth fill


EXPRESSIONS: dict[str, tuple[Pulls, ...]] = {
    "angry": (
        Pulls(-2.0, -3.2, 1.8, -0.6, 0.8, lip_corner=-1.0, lip_stretch=-0.8),  # lips pressed
        Pulls(-2.0, -3.4, 1.8, 0.0, 0.6, lip_stretch=0.8, lip_part=5.0, teeth=0.8),  # teeth bared
    ),
    "disgust": (
        Pulls(-1.4, -1.2, 0.6, -0.9, 1.2, 1.0, lip_corner=-1.0, lip_skew=4.0),
        Pulls(-1.4, -1.2, 0.6, -0.9, 1.2, 1.0, lip_skew=3.2, lip_part=3.0, teeth=0.5),
    ),
    "fear": (Pulls(2.4, 2.8, 2.0, 2.0, lip_corner=-2.0, lip_stretch=2.6, lip_part=4.2, teeth=0.4),),
    "happy": (
        Pulls(lid_squint=0.9, lip_corner=4.2, lip_stretch=2.4),  # smiling
        Pulls(0.4, lid_squint=1.0, lip_corner=4.0, lip_stretch=2.6, lip_part=6.0, teeth=0.6),
    ),
    "sad": (Pulls(-0.3, 3.4, 1.0, -1.2, lip_corner=-4.4, lip_stretch=-0.4),),
    "surprise": (Pulls(3.4, lid_open=2.2, lip_stretch=-2.0, lip_part=9.5),),
    "neutral": (Pulls(),),
}
"""The full expressions; two versions where people differ most."""

AT_REST = Pulls(0.5, 0.4, 0.2, 0.25, 0.15, 0.05, 0.5, 0.5, 0.4, 0.3)
"""Standard deviations of the pulls at rest: no two people look the same."""


@dataclass(frozen=True)
class Person:
    """What makes one drawn face another person; independent of the expression."""

    head: tuple[float, float]  # half the width and height
    skin: float  # grey
    hair: float  # grey
    hair_length: float  # y of the lower end of the hair behind the head
    eye: tuple[float, float]  # px from the middle to each eye
    eye_size: float  # half the width of an eye
    brow: float  # px above the eye
    nose: float  # length
    mouth: tuple[float, float]  # y and half the width
    glasses: bool
    turn: float  # px that the features shift sideways as the head turns


def draw_sample(train: int, val: int, test: int, seed: int) -> Faces:
    """Draw so many images of each split, every expression in each; the seed decides all of it.

    Raises:
        DataError: a split is too small to hold every expression.
    """
    sizes = {"train": train, "val": val, "test": test}
    for name, size in sizes.items():
        if size < NUM_EMOTIONS:
            raise DataError(
                f"data.sample.{name} is {size}: a split needs at least {NUM_EMOTIONS} images, "
                f"one of each expression"
            )
    splits = [_draw_split(size, seed, split) for split, size in enumerate(sizes.values())]
    if train >= 200:
        rng = _child(seed, 0, 1)
        splits[0][0][rng.integers(train)] = rng.integers(256)
    for split in (1, 2):
        _plant_copies(splits[split], splits[0], _child(seed, split, 1))
    pixels, emotion = (np.concatenate(one) for one in zip(*splits, strict=True))
    return Faces(pixels, emotion, np.repeat(USAGES, [train, val, test]))


def count_copies(size: int) -> tuple[int, int]:
    """How many of `size` test images copy a training image, and how many with another label."""
    copies = round(0.04 * size) if size >= 100 else 0
    return copies, round(0.2 * copies)


def draw_face(emotion: int, rng: np.random.Generator) -> UInt8Array:
    """One synthetic face of shape (48, 48) that shows `EMOTIONS[emotion]`, weakly to fully."""
    who, pulls, background = _draw_person(rng), _draw_pulls(emotion, rng), rng.uniform(20, 225)
    sketch = _Sketch(background)
    _draw_head(sketch, who, pulls)
    for side in (-1, 1):
        _draw_eye(sketch, who, pulls, side)
    _draw_nose(sketch, who, pulls)
    _draw_mouth(sketch, who, pulls)
    if rng.random() < 0.06:  # something stands before the face
        y = rng.uniform(-16, 16)
        sketch.fill([(-40, y), (40, y + 6), (40, y + 10), (-40, y + 4)], 255 - background)
    return _photograph(sketch.image, rng)


def _child(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each image, so that none depends on what another one drew."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_split(size: int, seed: int, split: int) -> Drawn:
    labels = np.repeat(np.arange(NUM_EMOTIONS, dtype=np.int8), _class_counts(size))
    _child(seed, split, 0).shuffle(labels)
    faces = [draw_face(int(label), _child(seed, split, 2, i)) for i, label in enumerate(labels)]
    return np.stack(faces), labels


def _class_counts(size: int) -> Int64Array:
    """One of each class, and the rest in `CLASS_SHARES` by largest remainders."""
    exact = 1 + (size - NUM_EMOTIONS) * CLASS_SHARES / CLASS_SHARES.sum()
    counts: Int64Array = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    return counts


def _plant_copies(split: Drawn, train: Drawn, rng: np.random.Generator) -> None:
    """Overwrite some images of a split with training images; its labels stay as they are."""
    (pixels, labels), (train_pixels, train_labels) = split, train
    varied = np.ptp(train_pixels, axis=(1, 2)) > 0  # the constant image stays alone
    copies, conflicts = count_copies(len(labels))
    for place, row in enumerate(rng.permutation(len(labels))[:copies]):
        same = train_labels == labels[row]
        wanted = ~same if place < conflicts else same
        pixels[row] = train_pixels[rng.choice(np.flatnonzero(wanted & varied))]


def _draw_person(rng: np.random.Generator) -> Person:
    draw = rng.uniform
    skin = draw(110, 220)
    return Person(
        head=(draw(15.5, 19), draw(20, 22.5)), skin=skin, hair=min(draw(15, 160), skin * 0.9),
        hair_length=float(rng.choice([-18.0, 0.0, 30.0])),
        eye=(draw(7.2, 8.6), draw(-5.5, -3.5)), eye_size=draw(3.8, 4.9), brow=draw(4.6, 5.8),
        nose=draw(7.5, 9.5), mouth=(draw(10, 12), draw(5.2, 6.8)),
        glasses=bool(rng.random() < 0.15), turn=float(np.clip(rng.normal(0, 1.4), -3, 3)),
    )  # fmt: skip


def _draw_pulls(emotion: int, rng: np.random.Generator) -> Pulls:
    """One person's version of an expression, of random intensity, on a face not quite at rest."""
    variants = EXPRESSIONS[EMOTIONS[emotion]]
    full = np.array(astuple(variants[rng.integers(len(variants))]))
    rest = np.array(astuple(AT_REST)) * rng.normal(size=len(full))
    return Pulls(*(rng.uniform(MIN_INTENSITY, 1.0) * full + rest).tolist())


class _Sketch:
    """A canvas of 72x72 px, larger than the image, so that a turned face keeps a background."""

    SCALE = 4  # canvas pixels per image pixel
    CANVAS = 72 * SCALE

    def __init__(self, background: float) -> None:
        self.image = Image.new("L", (self.CANVAS, self.CANVAS), round(background))
        self._pen = ImageDraw.Draw(self.image)

    def fill(self, points: Points, grey: float) -> None:
        self._pen.polygon(self._place(points), fill=int(np.clip(grey, 0, 255)))

    def line(self, points: Points, grey: float, width: float = 0.8) -> None:
        stroke, fill = round(width * self.SCALE), int(np.clip(grey, 0, 255))
        self._pen.line(self._place(points), fill=fill, width=stroke, joint="curve")

    def _place(self, points: Points) -> list[float]:
        flat: list[float] = (np.asarray(points) * self.SCALE + self.CANVAS / 2).ravel().tolist()
        return flat


def _ellipse(x: float, y: float, rx: float, ry: float) -> npt.NDArray[np.float64]:
    """(32, 2) points around the middle (x, y)."""
    t = np.linspace(0.0, 2 * np.pi, 32)
    return np.column_stack([x + rx * np.cos(t), y + ry * np.sin(t)])


def _draw_head(sketch: _Sketch, who: Person, pulls: Pulls) -> None:
    """Neck, ears, head and hair: all that the features are drawn on."""
    width, height = who.head
    sketch.fill(_ellipse(0, -5, width + 4, height + 1), who.hair)
    sketch.fill([(-width - 4, -5), (width + 4, -5), (width + 4, who.hair_length),
                 (-width - 4, who.hair_length)], who.hair)  # fmt: skip
    sketch.fill([(-8, 14), (8, 14), (10, 40), (-10, 40)], who.skin * 0.72)
    for side in (-1, 1):
        sketch.fill(_ellipse(side * width, who.eye[1] + 3, 2.2, 3.2), who.skin * 0.85)
    outline = _ellipse(0, 0, width, height)
    # The jaw narrows, and an open mouth lengthens it.
    low = np.clip(outline[:, 1] / height, 0.0, 1.0)
    outline[:, 0] *= 1 - 0.25 * low**1.5
    outline[:, 1] += 0.35 * max(0.0, pulls.lip_part) * low
    sketch.fill(outline * 1.03, who.skin * 0.6)
    sketch.fill(outline, who.skin)
    brow = who.eye[1] - who.brow - 7
    sketch.fill(outline[outline[:, 1] < brow], who.hair)


def _draw_eye(sketch: _Sketch, who: Person, pulls: Pulls, side: int) -> None:
    x, y = who.turn + side * who.eye[0], who.eye[1]
    t = np.linspace(-1.0, 1.0, 9)
    up = max(0.15, 0.55 * who.eye_size + pulls.lid_open)
    down = max(0.1, 0.4 * who.eye_size + 0.4 * pulls.lid_open - pulls.lid_squint)
    upper = np.column_stack([x + who.eye_size * t, y - up * (1 - t**2)])
    lower = np.column_stack([x + who.eye_size * t, y + down * (1 - t**2)])
    sketch.fill(np.concatenate([upper, lower[::-1]]), 238)
    iris = _ellipse(x + 0.25 * who.turn, y, who.eye_size * 0.45, who.eye_size * 0.45)
    iris[:, 1] = np.clip(iris[:, 1], y - up * 0.9, y + down * 0.9)  # the lids cut it off
    sketch.fill(iris, 40)
    sketch.line(upper, 25)
    brow = y - who.brow - pulls.brow_raise
    inner = x - side * (who.eye_size + pulls.brow_gather)
    outer = x + side * (who.eye_size + 1.2)
    sketch.line([(inner, brow - pulls.brow_inner), (x, brow - 1.2), (outer, brow + 0.8)],
                who.hair * 0.6, 1.8)  # fmt: skip
    if who.glasses:
        sketch.line(_ellipse(x, y, who.eye_size + 1.6, who.eye_size + 1), 35)


def _draw_nose(sketch: _Sketch, who: Person, pulls: Pulls) -> None:
    x, tip = who.turn * 1.25, who.eye[1] + who.nose - 0.8 * pulls.nose_wrinkle
    crease, half = who.skin * 0.66, 2.5 + 0.5 * pulls.nose_wrinkle
    sketch.line([(who.turn + 1.2, who.eye[1]), (x + half, tip), (x - half, tip)], crease)
    if pulls.nose_wrinkle > 0.25:
        for y in who.eye[1] + np.array([-0.5, 1.2, 2.9]):
            sketch.line([(who.turn - 2.4, y), (who.turn, y - 1), (who.turn + 2.4, y)], crease)


def _draw_mouth(sketch: _Sketch, who: Person, pulls: Pulls) -> None:
    t = np.linspace(-1.0, 1.0, 13)
    xs = who.turn * 1.1 + max(2.2, who.mouth[1] + pulls.lip_stretch) * t
    middle = who.mouth[0] - pulls.lip_corner * (t**2 - 0.35) - pulls.lip_skew * t / 2
    bulge = (1 - t**2) * max(0.0, pulls.lip_part)
    upper, lower = middle - 0.4 * bulge, middle + 0.6 * bulge
    lips = [np.column_stack([xs, edge]) for edge in (upper, lower)]
    for lip in lips:
        sketch.line(lip, who.skin * 0.55, 2.0)
    if pulls.lip_part < 0.8:
        sketch.line(lips[0], who.skin * 0.25)
        return
    sketch.fill(np.concatenate([lips[0], lips[1][::-1]]), 28)
    if pulls.teeth > 0.1:
        below = np.column_stack([xs, upper + (lower - upper) * min(1.0, pulls.teeth)])
        sketch.fill(np.concatenate([lips[0], below[::-1]]), 235)


def _photograph(canvas: Image.Image, rng: np.random.Generator) -> UInt8Array:
    """Turn, shift, scale and light the canvas, and lose detail as a small photograph does."""
    angle, zoom = np.deg2rad(np.clip(rng.normal(0, 6), -15, 15)), 2 / rng.uniform(1.02, 1.2)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = _Sketch.CANVAS / 2 - turn @ (SIDE + rng.normal(0, 2.6, 2))
    pose = np.column_stack([turn, middle]).ravel().tolist()
    big = canvas.transform((2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, pose,
                           resample=Image.Resampling.BILINEAR)  # fmt: skip
    small = big.filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.0))).reduce(2)
    grey = np.asarray(small, dtype=np.float64)  # (48, 48)
    edge, slope = np.linspace(-1, 1, SIDE), rng.normal(0, 0.15, 2)
    grey = grey * (1 + slope[0] * edge + slope[1] * edge[:, None])
    grey = 128 + rng.uniform(0.7, 1.15) * (grey - 128) + rng.uniform(-20, 20)
    grey += rng.normal(0, rng.uniform(1, 6), grey.shape)
    pixels: UInt8Array = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return pixels

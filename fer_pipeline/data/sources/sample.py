"""The built-in sample: SYNTHETIC 48x48 grey faces with FER2013's seven expressions.

The faces are cartoons drawn by code, so that the whole pipeline can run in minutes with no
download. No person's face is in them, and a score on them says nothing about real faces.

The sample mirrors, in small and in exact numbers, the faults that FER2013 is known for:

    copies       round(0.04 * n) images of a PublicTest or PrivateTest split of n >= 100 images
                 have the very pixels of a training image
    conflicts    round(0.2 * copies) of these carry another label than the training image
    constant     one training image has a single grey, where train >= 200
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from fer_pipeline.data.faces import SIDE, USAGES, Faces, Int64Array, UInt8Array
from fer_pipeline.data.sources.drawing import CANVAS, SCALE, Sketch, draw_features, draw_head
from fer_pipeline.data.sources.expressions import draw_controls
from fer_pipeline.data.sources.identity import Identity, draw_identity
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError

SAMPLE_VERSION = "1"
"""What `data/source.lock.yaml` pins. Raise it whenever the drawn pixels change."""

CLASS_SHARES = np.array([0.139, 0.050, 0.143, 0.251, 0.168, 0.110, 0.173])
"""FER2013's class proportions, except disgust: its 0.015 would leave too few to learn from."""

COPY_SHARE = 0.04
CONFLICT_SHARE = 0.2
MIN_SPLIT_WITH_COPIES = 100
MIN_TRAIN_WITH_CONSTANT = 200

Occlusion = Literal["none", "hair", "hand", "bar"]
OCCLUSIONS: tuple[Occlusion, ...] = ("none", "hair", "hand", "bar")


@dataclass(frozen=True)
class Scene:
    """How the drawn face is photographed. Angles in radians, lengths in image pixels."""

    background: float
    stripes: float  # contrast of the background's stripes in greys
    rotation: float
    scale: float
    shear: float
    shift_x: float
    shift_y: float
    perspective: float  # relative change of size from the middle to a side
    light_angle: float
    light: float  # relative change of brightness from the middle to an edge
    contrast: float
    brightness: float  # added greys
    blur: float  # radius
    noise: float  # standard deviation in greys
    occlusion: Occlusion


def draw_sample(train: int, val: int, test: int, seed: int) -> Faces:
    """Draw the synthetic sample; the same arguments give the same arrays.

    Args:
        train: number of Training images, at least 7.
        val: number of PublicTest images, at least 7.
        test: number of PrivateTest images, at least 7.
        seed: of every random choice, 0 or more.

    Returns:
        The splits in the order of `USAGES`, every expression in each; see the module's docstring
        for the faults that are planted.

    Raises:
        DataError: a split is too small to hold every expression.
    """
    sizes = (train, val, test)
    for name, size in zip(("train", "val", "test"), sizes, strict=True):
        if size < NUM_EMOTIONS:
            raise DataError(
                f"data.sample.{name} is {size}: a split needs at least {NUM_EMOTIONS} images, "
                f"one of each expression"
            )
    splits = [_draw_split(size, seed, split) for split, size in enumerate(sizes)]
    if train >= MIN_TRAIN_WITH_CONSTANT:
        rng = _child(seed, 0, 1)
        splits[0][0][rng.integers(train)] = rng.integers(256)
    for split in (1, 2):
        _plant_copies(*splits[split], *splits[0], _child(seed, split, 1))
    return Faces(
        np.concatenate([pixels for pixels, _ in splits]),
        np.concatenate([emotion for _, emotion in splits]),
        np.repeat(np.array(USAGES), sizes),
    )


def copy_count(size: int) -> int:
    """How many images of a PublicTest or PrivateTest split of `size` copy a training image."""
    return round(COPY_SHARE * size) if size >= MIN_SPLIT_WITH_COPIES else 0


def conflict_count(size: int) -> int:
    """How many of these copies carry another label than the training image."""
    return round(CONFLICT_SHARE * copy_count(size))


def draw_face(emotion: int, rng: np.random.Generator) -> UInt8Array:
    """One synthetic face of shape (48, 48) that shows `EMOTIONS[emotion]`, weakly to fully."""
    who, scene, controls = draw_identity(rng), _draw_scene(rng), draw_controls(emotion, rng)
    sketch = Sketch(scene.background)
    for y in range(-40, 40, 6):
        stripe = np.array([[-40, y], [40, y + 8], [40, y + 11], [-40, y + 3]], dtype=float)
        sketch.polygon(stripe, scene.background + scene.stripes)
    draw_head(sketch, who, controls)
    draw_features(sketch, who, controls)
    _occlude(sketch, who, scene, rng)
    return _photograph(sketch.image, scene, rng)


def _child(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each image, so that none depends on what another one drew."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_split(size: int, seed: int, split: int) -> tuple[UInt8Array, npt.NDArray[np.int8]]:
    labels = np.repeat(np.arange(NUM_EMOTIONS, dtype=np.int8), _class_counts(size))
    _child(seed, split, 0).shuffle(labels)
    faces = [draw_face(int(label), _child(seed, split, 2, i)) for i, label in enumerate(labels)]
    return np.stack(faces), labels


def _class_counts(size: int) -> Int64Array:
    """One of each class, and the rest in `CLASS_SHARES` by largest remainders."""
    exact = (size - NUM_EMOTIONS) * CLASS_SHARES / CLASS_SHARES.sum()
    counts: Int64Array = np.floor(exact).astype(np.int64)
    short = size - NUM_EMOTIONS - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    counts += 1
    return counts


def _plant_copies(
    pixels: UInt8Array,
    labels: npt.NDArray[np.int8],
    train_pixels: UInt8Array,
    train_labels: npt.NDArray[np.int8],
    rng: np.random.Generator,
) -> None:
    """Overwrite some of `pixels` with training images; `labels` stay, so class counts do too."""
    size = len(labels)
    varied = np.ptp(train_pixels, axis=(1, 2)) > 0  # the constant image stays alone
    for place, row in enumerate(rng.permutation(size)[: copy_count(size)]):
        same = train_labels == labels[row]
        wanted = ~same if place < conflict_count(size) else same
        pixels[row] = train_pixels[rng.choice(np.flatnonzero(wanted & varied))]


def _draw_scene(rng: np.random.Generator) -> Scene:
    return Scene(
        background=rng.uniform(20, 225),
        stripes=rng.normal(0, 12),
        rotation=np.deg2rad(np.clip(rng.normal(0, 6), -15, 15)),
        scale=rng.uniform(1.02, 1.2),
        shear=rng.normal(0, 0.05),
        shift_x=rng.normal(0, 1.3),
        shift_y=rng.normal(0, 1.3),
        perspective=rng.normal(0, 0.06),
        light_angle=rng.uniform(0, 2 * np.pi),
        light=rng.uniform(0, 0.4),
        contrast=rng.uniform(0.7, 1.15),
        brightness=rng.uniform(-20, 20),
        blur=rng.uniform(0.2, 0.9),
        noise=rng.uniform(1, 6),
        occlusion=OCCLUSIONS[rng.choice(4, p=(0.88, 0.05, 0.04, 0.03))],
    )


def _occlude(sketch: Sketch, who: Identity, scene: Scene, rng: np.random.Generator) -> None:
    side = 1 if rng.random() < 0.5 else -1
    if scene.occlusion == "hair":  # over one brow
        lock = [[side * 2, -24], [side * 20, -24], [side * 19, 4], [side * 13, -4], [side * 8, -8]]
        sketch.polygon(np.array(lock, dtype=float), who.hair_grey)
    elif scene.occlusion == "hand":  # at one side of the mouth
        for finger in range(4):
            sketch.ellipse(side * (15 - finger), 8 + 4 * finger, 6, 2.2, who.skin * 0.6)
            sketch.ellipse(side * (15 - finger), 8 + 4 * finger, 5.4, 1.7, who.skin * 1.05)
    elif scene.occlusion == "bar":
        y = rng.uniform(-16, 16)
        bar = np.array([[-40, y], [40, y + 6], [40, y + 10], [-40, y + 4]])
        sketch.polygon(bar, 255 - scene.background)


def _photograph(image: Image.Image, scene: Scene, rng: np.random.Generator) -> UInt8Array:
    """Turn, crop and light the canvas, and lose detail as a small photograph does."""
    big = image.transform(
        (2 * SIDE, 2 * SIDE),
        Image.Transform.PERSPECTIVE,
        _pose(scene),
        resample=Image.Resampling.BILINEAR,
    )
    small = big.filter(ImageFilter.GaussianBlur(2 * scene.blur)).reduce(2)
    grey = np.asarray(small, dtype=np.float64)  # (48, 48)
    edge = np.linspace(-1, 1, SIDE)
    slope = np.cos(scene.light_angle) * edge + np.sin(scene.light_angle) * edge[:, None]
    light = 1 + scene.light * slope  # (48, 48)
    grey = 128 + scene.contrast * (grey * light - 128) + scene.brightness
    grey += rng.normal(0, scene.noise, grey.shape)
    pixels: UInt8Array = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return pixels


def _pose(scene: Scene) -> list[float]:
    """The eight numbers of PIL's perspective transform, from the image back to the canvas."""
    cos, sin = np.cos(scene.rotation), np.sin(scene.rotation)
    zoom = SCALE / 2 / scene.scale
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array(
        [[1, scene.shear, 0], [0, 1, 0], [scene.perspective / SIDE, 0, 1]]
    )
    to_canvas = np.array([[zoom, 0, CANVAS / 2], [0, zoom, CANVAS / 2], [0, 0, 1]])
    from_image = np.array(
        [[1, 0, -SIDE - 2 * scene.shift_x], [0, 1, -SIDE - 2 * scene.shift_y], [0, 0, 1]]
    )
    pose = to_canvas @ turn @ from_image
    coefficients: list[float] = (pose / pose[2, 2]).ravel()[:8].tolist()
    return coefficients

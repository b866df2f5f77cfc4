"""What makes one drawn face another "person": proportions, hair, glasses, skin.

Lengths are pixels of the final 48x48 image, measured from the middle of the face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

HairStyle = Literal["bald", "short", "fringe", "long", "curly", "bun"]
FacialHair = Literal["none", "moustache", "beard"]

HAIR: tuple[HairStyle, ...] = ("bald", "short", "short", "fringe", "long", "curly", "bun")
FACIAL_HAIR: tuple[FacialHair, ...] = ("none", "moustache", "beard")


@dataclass(frozen=True)
class Identity:
    """What makes one drawn face another "person"; independent of the expression."""

    head_width: float
    head_height: float
    taper: float  # how much the jaw narrows, 0 to 0.5
    skin: float  # grey, 0 to 255
    hair_grey: float
    hair: HairStyle
    facial_hair: FacialHair
    eye_distance: float  # px from the middle to each eye
    eye_size: float  # half the width of an eye
    eye_y: float
    brow_width: float
    brow_y: float  # px above the eye
    nose_length: float
    nose_width: float
    mouth_y: float
    mouth_width: float  # half
    lip_width: float
    ear_size: float
    glasses: bool
    turn: float  # px that the features shift sideways as the head turns


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person."""
    skin = rng.uniform(110, 220)
    hair_grey = rng.uniform(15, 85) if rng.random() < 0.75 else rng.uniform(85, 200)
    hair = HAIR[rng.integers(len(HAIR))]
    facial_hair = FACIAL_HAIR[rng.choice(3, p=(0.76, 0.13, 0.11))]
    return Identity(
        head_width=rng.uniform(15.5, 19),
        head_height=rng.uniform(20, 22.5),
        taper=rng.uniform(0.08, 0.4),
        skin=skin,
        hair_grey=min(hair_grey, skin * 0.9),
        hair=hair,
        facial_hair=facial_hair if hair not in ("long", "bun") else "none",
        eye_distance=rng.uniform(7.2, 8.6),
        eye_size=rng.uniform(3.8, 4.9),
        eye_y=rng.uniform(-5.5, -3.5),
        brow_width=rng.uniform(1.4, 2.5),
        brow_y=rng.uniform(4.6, 5.8),
        nose_length=rng.uniform(7.5, 9.5),
        nose_width=rng.uniform(1.8, 3.2),
        mouth_y=rng.uniform(10, 12),
        mouth_width=rng.uniform(5.2, 6.8),
        lip_width=rng.uniform(0.6, 1.4),
        ear_size=rng.uniform(2.5, 4.2),
        glasses=bool(rng.random() < 0.15),
        turn=float(np.clip(rng.normal(0, 1.4), -3, 3)),
    )

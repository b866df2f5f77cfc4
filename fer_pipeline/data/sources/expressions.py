"""The seven expressions as pulls of facial muscles: the table that the drawn faces come from.

Lengths are pixels of the final 48x48 image. Everything here is invented, not measured.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from fer_pipeline.emotions import EMOTIONS


@dataclass(frozen=True)
class Controls:
    """How far the facial muscles pull away from rest; all zero is a face at rest.

    The comments name the units of the Facial Action Coding System (Ekman and Friesen 1978).
    """

    brow_raise: float = 0.0  # AU2, px up
    brow_inner: float = 0.0  # AU1 (px up) against AU4 (px down), at the inner ends
    brow_arch: float = 0.0  # px that the middle stands above the ends
    brow_gather: float = 0.0  # AU4, px towards the nose
    lid_open: float = 0.0  # AU5, px added to the opening of the eye
    lid_squint: float = 0.0  # AU6 and AU7, px that the lower lid rises
    lid_droop: float = 0.0  # px that the outer corner of the eye sinks
    nose_wrinkle: float = 0.0  # AU9, 0 to 1
    cheek_raise: float = 0.0  # AU6, 0 to 1
    lip_corner: float = 0.0  # AU12 (px up) against AU15 (px down)
    lip_stretch: float = 0.0  # AU20, px added to each half of the mouth
    lip_upper: float = 0.0  # AU10, px up
    lip_part: float = 0.0  # AU25 and AU26, px that the mouth opens
    lip_round: float = 0.0  # AU27, 0 a lens to 1 an oval
    lip_skew: float = 0.0  # px that one corner stands above the other
    teeth: float = 0.0  # share of the opening that teeth fill


MIN_INTENSITY = 0.35
"""The weakest expression drawn, as a share of the full one; it overlaps with its neighbours."""

EXPRESSIONS: dict[str, tuple[Controls, ...]] = {
    "angry": (
        Controls(brow_raise=-2.0, brow_inner=-3.2, brow_gather=1.8, brow_arch=-0.4, lid_open=-0.6,
                 lid_squint=0.8, lip_stretch=-0.8, lip_corner=-1.0),  # pressed lips
        Controls(brow_raise=-2.0, brow_inner=-3.4, brow_gather=1.8, brow_arch=-0.4, lid_squint=0.6,
                 lip_stretch=0.8, lip_corner=-0.6, lip_part=5.0, lip_round=0.5, teeth=0.8),  # bared
    ),
    "disgust": (
        Controls(brow_raise=-1.4, brow_inner=-1.2, brow_gather=0.6, lid_open=-0.9, lid_squint=1.2,
                 nose_wrinkle=1.0, lip_upper=2.2, lip_skew=4.0, lip_corner=-1.0, cheek_raise=0.3),
        Controls(brow_raise=-1.4, brow_inner=-1.2, brow_gather=0.6, lid_open=-0.9, lid_squint=1.2,
                 nose_wrinkle=1.0, lip_upper=2.0, lip_skew=3.2, lip_part=3.0, teeth=0.5),
    ),
    "fear": (
        Controls(brow_raise=2.4, brow_inner=2.8, brow_gather=2.0, lid_open=2.0, lip_stretch=2.6,
                 lip_corner=-2.0, lip_part=4.2, lip_round=-0.2, teeth=0.4),
    ),
    "happy": (
        Controls(lid_squint=0.9, cheek_raise=0.8, lip_corner=4.2, lip_stretch=2.4),  # closed
        Controls(brow_raise=0.4, lid_squint=1.0, cheek_raise=1.0, lip_corner=4.0, lip_stretch=2.6,
                 lip_part=6.0, teeth=0.6),  # laughing
    ),
    "sad": (
        Controls(brow_raise=-0.3, brow_inner=3.4, brow_gather=1.0, lid_open=-1.2, lid_droop=1.8,
                 lip_corner=-4.4, lip_stretch=-0.4),
    ),
    "surprise": (
        Controls(brow_raise=3.4, brow_arch=1.2, lid_open=2.2, lip_stretch=-2.0, lip_part=9.5,
                 lip_round=1.0),
    ),
    "neutral": (Controls(),),
}  # fmt: skip
"""The full expressions, as pulls away from rest; two versions where people differ most."""

AT_REST = Controls(
    brow_raise=0.5, brow_inner=0.4, brow_arch=0.2, brow_gather=0.2, lid_open=0.25, lid_squint=0.15,
    lid_droop=0.2, nose_wrinkle=0.05, cheek_raise=0.08, lip_corner=0.5, lip_stretch=0.5,
    lip_upper=0.15, lip_part=0.4, lip_skew=0.3,
)  # fmt: skip
"""Standard deviations: no two people look the same at rest."""


def draw_controls(emotion: int, rng: np.random.Generator) -> Controls:
    """One person's version of an expression, of random intensity, on a face not quite at rest."""
    variants = EXPRESSIONS[EMOTIONS[emotion]]
    full = np.array(astuple(variants[rng.integers(len(variants))]))
    intensity = rng.uniform(MIN_INTENSITY, 1.0)
    rest = np.array(astuple(AT_REST)) * rng.normal(size=len(full))
    return Controls(*(intensity * full + rest).tolist())

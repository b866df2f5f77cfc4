"""One synthetic cartoon face, drawn with polygons from an identity and its facial controls.

Everything here is invented by code: no person's face is used, measured or imitated, and
nothing learnt from these drawings says anything about real faces.

Lengths are pixels of the final 48x48 image, measured from the middle of the face: x to the
right, y downwards. The canvas is larger than the image, so that a turned face keeps a background.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fer_pipeline.data.sources.expressions import Controls
from fer_pipeline.data.sources.identity import Identity

SCALE = 4
"""Canvas pixels per image pixel."""

CANVAS = 72 * SCALE
"""Side of the square canvas in canvas pixels."""

Points = npt.NDArray[np.float64]


class Sketch:
    """A grey canvas that is drawn on in face coordinates."""

    def __init__(self, background: float) -> None:
        self.image = Image.new("L", (CANVAS, CANVAS), round(background))
        self._pen = ImageDraw.Draw(self.image)

    def polygon(self, points: Points, grey: float) -> None:
        """Fill the outline `points` of shape (K, 2)."""
        self._pen.polygon(_to_canvas(points), fill=_to_grey(grey))

    def band(self, upper: Points, lower: Points, grey: float) -> None:
        """Fill between two edges of shape (K, 2), both given from left to right."""
        self.polygon(np.concatenate([upper, lower[::-1]]), grey)

    def line(self, points: Points, grey: float, width: float) -> None:
        """Stroke through `points` of shape (K, 2)."""
        stroke = max(1, round(width * SCALE))
        self._pen.line(_to_canvas(points), fill=_to_grey(grey), width=stroke, joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, grey: float) -> None:
        """Fill an ellipse with the middle (x, y)."""
        box = _to_canvas(np.array([[x - rx, y - ry], [x + rx, y + ry]]))
        self._pen.ellipse(box, fill=_to_grey(grey))


def _to_canvas(points: Points) -> list[float]:
    flat: list[float] = (points * SCALE + CANVAS / 2).ravel().tolist()
    return flat


def _to_grey(grey: float) -> int:
    return int(min(255.0, max(0.0, grey)))


def curve(
    start: tuple[float, float], pull: tuple[float, float], end: tuple[float, float]
) -> Points:
    """(9, 2) points of the quadratic Bezier curve from `start` to `end`."""
    t = np.linspace(0.0, 1.0, 9)
    weights = np.column_stack([(1 - t) ** 2, 2 * t * (1 - t), t**2])  # (9, 3)
    points: Points = weights @ np.array([start, pull, end])
    return points


def draw_head(sketch: Sketch, who: Identity, controls: Controls) -> None:
    """Neck, ears, head and the hair behind it: all that the features are drawn on."""
    width, height = who.head_width, who.head_height
    _back_hair(sketch, who)
    shadow = who.skin * 0.72
    sketch.polygon(np.array([[-8, 14], [8, 14], [10, 40], [-10, 40]], dtype=float), shadow)
    sketch.ellipse(0, 42, 30, 14, who.hair_grey * 0.5 + 60)
    for side in (-1, 1):
        x = side * (width + 0.3)
        sketch.ellipse(x, who.eye_y + 3, who.ear_size * 0.7, who.ear_size, who.skin * 0.9)
        sketch.ellipse(x, who.eye_y + 3, who.ear_size * 0.35, who.ear_size * 0.6, shadow)
    t = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    low = np.clip(np.sin(t), 0.0, 1.0)
    drop = 0.35 * max(0.0, controls.lip_part)  # an open mouth lengthens the jaw
    x_outline = width * np.cos(t) * (1 - who.taper * low**1.5)
    outline = np.column_stack([x_outline, height * np.sin(t) + drop * low])
    sketch.polygon(outline * 1.03, who.skin * 0.6)
    sketch.polygon(outline, who.skin)
    if who.facial_hair == "beard":
        beard = outline[np.sin(t) > 0.25]
        inner = beard[::-1] * np.array([0.72, 0.55])
        sketch.polygon(np.concatenate([beard, inner]), who.skin * 0.35 + who.hair_grey * 0.5)


def _back_hair(sketch: Sketch, who: Identity) -> None:
    grey = who.hair_grey * 0.85
    if who.hair == "curly":
        for angle in np.linspace(np.pi, 2 * np.pi, 9):
            x, y = who.head_width * np.cos(angle) * 1.1, who.head_height * np.sin(angle) - 1
            sketch.ellipse(x, y, 6, 6, grey)
    elif who.hair == "bun":
        sketch.ellipse(0, -who.head_height - 2, 6.5, 5.5, grey)
    elif who.hair == "long":
        half = who.head_width + 5
        sketch.ellipse(0, -4, half, who.head_height + 1, grey)
        sketch.polygon(np.array([[-half, -4], [half, -4], [half + 1, 34], [-half - 1, 34]]), grey)


def _front_hair(sketch: Sketch, who: Identity) -> None:
    if who.hair == "bald":
        return
    across = np.linspace(-1.0, 1.0, 15)
    temple = who.eye_y + (4.0 if who.hair == "long" else 0.0)
    hairline = who.eye_y - who.brow_y - (3.5 if who.hair == "fringe" else 6.0)
    parting = 1.2 if who.hair in ("short", "long") else 0.0
    edge = hairline + parting * across + (temple - hairline) * across**6
    if who.hair == "fringe":
        edge[1::2] += 2.5
    low = np.column_stack([across * who.head_width, edge])
    dome = temple - (who.head_height + temple + 2) * np.sqrt(1 - across**2)
    top = np.column_stack([across * (who.head_width + 0.8), dome])
    sketch.band(top, low, who.hair_grey)


def draw_features(sketch: Sketch, who: Identity, controls: Controls) -> None:
    """Eyes, brows, nose, mouth, the folds between them, and the hair that falls over them."""
    _draw_folds(sketch, who, controls)
    for side in (-1, 1):
        _draw_eye(sketch, who, controls, side)
        _draw_brow(sketch, who, controls, side)
    _draw_nose(sketch, who, controls)
    _draw_mouth(sketch, who, controls)
    if who.facial_hair != "none":
        _draw_moustache(sketch, who, controls)
    _front_hair(sketch, who)
    if who.glasses:
        _draw_glasses(sketch, who)


def _draw_folds(sketch: Sketch, who: Identity, controls: Controls) -> None:
    crease = who.skin * 0.72
    for side in (-1, 1):
        if controls.cheek_raise > 0.15:
            glow = who.skin * (1 + 0.14 * controls.cheek_raise)
            sketch.ellipse(who.turn + side * 9.5, who.eye_y + 8.5, 3.6, 2.6, glow)
        fold = controls.cheek_raise + controls.nose_wrinkle
        if fold > 0.3:
            top = (who.turn + side * 3.2, who.eye_y + who.nose_length)
            end = (who.turn + side * 8.5, who.mouth_y - 1 - controls.lip_corner * 0.3)
            sketch.line(curve(top, (end[0], top[1] + 1), end), crease, 0.4 + 0.3 * fold)
        if controls.brow_gather > 0.6:
            x = who.turn + side * 1.1
            sketch.line(np.array([[x, who.eye_y - 6.5], [x, who.eye_y - 3]]), crease, 0.6)
    if controls.brow_raise > 1.5:
        for y in (who.eye_y - 12.5, who.eye_y - 14.5):
            line = curve((who.turn - 7, y), (who.turn, y - 1), (who.turn + 7, y))
            sketch.line(line, who.skin * 0.82, 0.5)


def _draw_eye(sketch: Sketch, who: Identity, controls: Controls, side: int) -> None:
    x = who.turn + side * who.eye_distance
    reach = max(2.0, who.eye_size * (1.0 - 0.02 * side * who.turn))
    up = max(0.15, 0.55 * who.eye_size + controls.lid_open)
    down = max(0.1, 0.4 * who.eye_size + 0.4 * controls.lid_open - controls.lid_squint)
    t = np.linspace(-1.0, 1.0, 9)
    bulge = 1 - t**2
    middle = who.eye_y + controls.lid_droop * (side * t + 0.3)
    upper, lower = middle - up * bulge, middle + down * bulge
    xs = x + reach * t
    upper_lid, lower_lid = np.column_stack([xs, upper]), np.column_stack([xs, lower])
    sketch.band(upper_lid, lower_lid, 238)
    angle = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
    for radius, grey in ((who.eye_size * 0.5, 70.0), (who.eye_size * 0.26, 12.0)):
        iris_x = x + 0.25 * who.turn + radius * np.cos(angle)
        iris_y = who.eye_y - 0.3 + radius * np.sin(angle)
        # The lids cut the iris off.
        iris_y = np.clip(iris_y, np.interp(iris_x, xs, upper), np.interp(iris_x, xs, lower))
        sketch.polygon(np.column_stack([iris_x, iris_y]), grey)
    sketch.line(upper_lid, 25, 0.9)
    sketch.line(lower_lid, who.skin * 0.55, 0.45)


def _draw_brow(sketch: Sketch, who: Identity, controls: Controls, side: int) -> None:
    x = who.turn + side * who.eye_distance
    y = who.eye_y - who.brow_y - controls.brow_raise
    inner = (x - side * (who.eye_size + 0.2 + controls.brow_gather), y - controls.brow_inner)
    outer = (x + side * (who.eye_size + 1.2), y + 0.8)
    ridge = curve(inner, (x, y - 1.2 - 2 * controls.brow_arch), outer)
    taper = np.linspace(1.0, 0.35, len(ridge))[:, None] * np.array([0.0, who.brow_width / 2])
    sketch.band(ridge - taper, ridge + taper, who.hair_grey * 0.6)


def _draw_nose(sketch: Sketch, who: Identity, controls: Controls) -> None:
    crease, x = who.skin * 0.66, who.turn * 1.25
    tip = who.eye_y + who.nose_length - 0.8 * controls.nose_wrinkle
    side = 1 if who.turn >= 0 else -1
    root, wing = (who.turn + side * 1.2, who.eye_y), (x + side * who.nose_width, tip)
    sketch.line(curve(root, (x + side * 1.4, tip - 3), wing), who.skin * 0.82, 0.7)
    half = who.nose_width * (1 + 0.2 * controls.nose_wrinkle)
    sketch.line(curve((x - half, tip - 0.6), (x, tip + 1.6), (x + half, tip - 0.6)), crease, 0.7)
    for nostril in (-1, 1):
        sketch.ellipse(x + nostril * half * 0.5, tip, 0.7, 0.45, who.skin * 0.35)
    if controls.nose_wrinkle > 0.25:
        for step in range(3):
            y = who.eye_y - 0.5 + 1.7 * step
            wrinkle = curve((who.turn - 2.4, y), (who.turn, y - 1.6), (who.turn + 2.4, y))
            sketch.line(wrinkle, crease * (1.1 - 0.4 * controls.nose_wrinkle), 0.6)


def _lips(who: Identity, controls: Controls, swell: float) -> tuple[Points, Points]:
    """(13, 2) points of the upper and of the lower edge, `swell` px outside the opening."""
    t = np.linspace(-1.0, 1.0, 13)
    half = max(2.2, who.mouth_width + controls.lip_stretch) + 0.6 * swell
    bulge = np.clip(1 - t**2, 0.0, 1.0) ** (1 - 0.5 * controls.lip_round)
    middle = who.mouth_y - controls.lip_corner * (t**2 - 0.35) - controls.lip_skew * t / 2
    up = 0.4 * max(0.0, controls.lip_part) + swell + controls.lip_upper
    down = 0.6 * max(0.0, controls.lip_part) + 1.2 * swell - 0.7 * controls.lip_upper
    xs = who.turn * 1.1 + half * t
    upper = np.column_stack([xs, middle - up * bulge])
    return upper, np.column_stack([xs, np.maximum(middle + down * bulge, upper[:, 1])])


def _draw_mouth(sketch: Sketch, who: Identity, controls: Controls) -> None:
    sketch.band(*_lips(who, controls, who.lip_width), who.skin * 0.62)
    upper, lower = _lips(who, controls, 0.0)
    if controls.lip_part < 0.8:
        sketch.line((upper + lower) / 2, who.skin * 0.25, 0.8)
        return
    sketch.band(upper, lower, 28)
    if controls.teeth > 0.1:
        sketch.band(upper, upper + (lower - upper) * min(1.0, controls.teeth), 235)


def _draw_moustache(sketch: Sketch, who: Identity, controls: Controls) -> None:
    x, y = who.turn * 1.1, who.mouth_y - who.lip_width - 0.4 * max(0.0, controls.lip_part) - 0.9
    y -= controls.lip_upper
    for side in (-1, 1):
        end = (x + side * who.mouth_width * 0.95, y + 1.2 - 0.5 * controls.lip_corner)
        ridge = curve((x, y - 0.6), (x + side * 2.5, y - 1.2), end)
        sketch.line(ridge, who.hair_grey * 0.8, 1.6)


def _draw_glasses(sketch: Sketch, who: Identity) -> None:
    radius, y = who.eye_size + 1.6, who.eye_y
    angle = np.linspace(0.0, 2 * np.pi, 21)
    for side in (-1, 1):
        x = who.turn + side * who.eye_distance
        rim = np.column_stack([x + radius * np.cos(angle), y + 0.3 + 0.8 * radius * np.sin(angle)])
        sketch.line(rim, 35, 0.7)
        temple = np.array([[x + side * radius, y], [side * who.head_width, y + 1]])
        sketch.line(temple, 35, 0.7)
    gap = who.eye_distance - radius
    sketch.line(curve((who.turn - gap, y), (who.turn, y - 1), (who.turn + gap, y)), 35, 0.7)

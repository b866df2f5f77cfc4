"""The occlusion map says which part of a face a probability rests on."""

from __future__ import annotations

import numpy as np

from fer_pipeline.app.occlusion import PATCH, cover, map_falls


def test_a_patch_of_the_mean_grey_covers_every_pixel_in_turn() -> None:
    face = np.random.default_rng(0).integers(0, 100, (48, 48), np.uint8)
    changed = cover(face) != face
    assert changed.any(axis=0).mean() > 0.95  # a pixel may have the mean grey itself
    assert changed.sum(axis=(1, 2)).max() <= PATCH**2
    assert set(cover(face)[changed]) == {round(face.mean())}


def test_the_map_is_largest_where_the_probability_comes_from() -> None:
    face = np.zeros((48, 48), np.uint8)
    face[36:42, 12:18] = 255  # all that the model looks at

    def probability(images: np.ndarray) -> np.ndarray:
        return images[:, 36:42, 12:18].mean(axis=(1, 2)).astype(np.float32) / 255

    falls = map_falls(1.0, probability(cover(face)))
    assert falls[36:42, 12:18].min() == falls.max() > 0.9
    assert falls[:30].max() == falls[:, 24:].max() == 0

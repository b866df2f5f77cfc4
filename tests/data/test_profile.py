"""A profile counts what is there, and comes back from the lock file as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from two_greys import halves

from fer_pipeline.data.profile import BRIGHTNESS_MIDDLES, CONTRAST_MIDDLES, profile_of


def filled(counts: tuple[int, ...], middles: tuple[int, ...]) -> dict[int, int]:
    """The bins that are not empty, by their middles."""
    return {middle: count for middle, count in zip(middles, counts, strict=True) if count}


WHOLE = profile_of(halves([(100, 120)] * 35), "fer")
"""Five images of each emotion."""


def test_a_profile_counts_emotions_mean_greys_and_spreads() -> None:
    found = profile_of(halves([(0, 0), (255, 255), (0, 255), (100, 120), (101, 121)]), "fer")
    assert (found.labels, found.classes, found.images) == ("fer", (1, 1, 1, 1, 1, 0, 0), 5)
    # Means 0, 255, 127.5, 110 and 111; standard deviations 0, 0, 127.5, 10 and 10.
    assert filled(found.brightness, BRIGHTNESS_MIDDLES) == {0: 1, 256: 1, 128: 1, 112: 2}
    assert filled(found.contrast, CONTRAST_MIDDLES) == {2: 2, 126: 1, 10: 2}


def test_the_mean_that_fer2013_is_equalised_to_lies_inside_a_bin() -> None:
    found = profile_of(halves([(127, 127), (127, 128), (128, 128), (128, 129), (129, 129)]), "fer")
    assert filled(found.brightness, BRIGHTNESS_MIDDLES) == {128: 5}


@pytest.mark.parametrize(
    ("field", "counts"),
    [
        ("classes", (5,) * 6),
        ("classes", (0,) * 7),
        ("classes", (5, 5, 5, 5, 5, 5, 6)),
        ("classes", (10, -5, 5, 5, 5, 5, 10)),
    ],
)
def test_counts_that_belong_to_no_set_are_refused(field: str, counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^a profile "):
        replace(WHOLE, **{field: counts})

"""A profile counts what is there, and comes back from the lock file as it was."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from io import StringIO

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from two_greys import halves

from fer_pipeline.data.profile import BRIGHTNESS_MIDDLES, CONTRAST_MIDDLES, Profile, profile_of
from fer_pipeline.data.sources.sample import draw_sample


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


def test_a_profile_comes_back_from_json_and_yaml() -> None:
    found = profile_of(draw_sample(14, 7, 7, seed=0), "ferplus_majority")
    text = StringIO()
    YAML(typ="safe").dump(json.loads(json.dumps(asdict(found))), text)
    again = TypeAdapter(Profile)
    assert again.validate_json(json.dumps(asdict(found))) == found
    assert again.validate_python(YAML(typ="safe").load(text.getvalue())) == found


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

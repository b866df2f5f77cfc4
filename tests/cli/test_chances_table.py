"""What `fer predict` prints, on a wide console and on narrow ones."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from rich.console import Console

from fer_pipeline.cli.main import chances_table
from fer_pipeline.emotions import EMOTIONS

CHANCES = np.array(
    [[0.02, 0.01, 0.03, 0.85, 0.05, 0.03, 0.01], [0.3, 0.0, 0.3, 0.1, 0.1, 0.1, 0.1]], np.float32
)
LONG = "holiday/" * 8 + "face.png"


def printed(width: int, *names: str) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(chances_table(list(names), CHANCES[: len(names)], console))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_wide_console_shows_every_chance() -> None:
    said = printed(200, "a.png", "b.png")
    assert all(emotion in said.splitlines()[1] for emotion in EMOTIONS)
    assert [cell.strip() for cell in said.splitlines()[3].split("│")[1:-1]] == (
        ["a.png", "happy", "2.0%", "1.0%", "3.0%", "85.0%", "5.0%", "3.0%", "1.0%"]
    )
    assert "third" not in said


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_console_shows_the_top_three_and_a_tie_in_the_order_of_the_labels(
    width: int,
) -> None:
    said = printed(width, "a.png", "b.png")
    assert "│ a.png │ happy 85.0% │ sad 5.0%   │ fear 3.0%   │" in said
    assert "│ b.png │ angry 30.0% │ fear 30.0% │ happy 10.0% │" in said
    assert "disgust" not in said
    assert "…" not in said


def test_the_name_of_an_image_is_folded_not_cut() -> None:
    said = printed(60, LONG)
    rows = [line.split("│")[1:-1] for line in said.splitlines() if line.startswith("│")]
    assert "".join(row[0].strip() for row in rows) == LONG
    assert max(len(line) for line in said.splitlines()) <= 60
    assert "happy 85.0%" in said


def test_a_name_that_is_no_utf8_is_shown_as_far_as_it_is() -> None:
    assert "│ a\ufffd.png │ happy 85.0%" in printed(60, os.fsdecode(b"a\xff.png"))

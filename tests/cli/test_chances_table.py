"""What `fer predict` prints, on a wide console and on narrow ones."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from fer_pipeline.cli.predict import chances_table
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.serving.inputs import Chunk
from fer_pipeline.serving.outputs import tabulate

CHANCES = np.array(
    [[0.02, 0.01, 0.03, 0.85, 0.05, 0.03, 0.01], [0.3, 0.0, 0.3, 0.1, 0.1, 0.1, 0.1]], np.float32
)
LONG = "holiday/" * 8 + "face.png"


def printed(width: int, *names: str, errors: tuple[str, ...] = (), singles: bool = False) -> str:
    """What is shown of faces that could be read, and after them of those that could not."""
    chances = CHANCES[: len(names)]
    chunk = Chunk(
        [*names, *(f"bad{place}.png" for place in range(len(errors)))],
        np.zeros((len(names), 48, 48), np.uint8),
        [*[None] * len(names), *errors],
        np.full((len(names), 2), 48),
    )
    rows = tabulate(chunk, chances, {"resnet50": chances[:, ::-1]} if singles else {})
    console = Console(file=io.StringIO(), width=width)
    console.print(chances_table(pa.Table.from_batches([rows]), console))
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


@pytest.mark.parametrize("width", [60, 200])
def test_what_could_not_be_read_has_no_figures(width: int) -> None:
    row = printed(width, "a.png", errors=("no picture",)).splitlines()[4]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert (cells[:2], set(cells[2:])) == (["bad0.png", "unreadable"], {""})


def test_each_backbone_has_a_column_where_it_is_asked_for() -> None:
    said = printed(200, "a.png", errors=("no picture",), singles=True).splitlines()
    assert said[1].split("┃")[-2].strip() == "resnet50"
    assert said[3].split("│")[-2].strip() == "happy 85.0%"

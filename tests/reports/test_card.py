"""The card says the report's figures in Markdown that renders."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from report_inputs import PAPER, make_inputs

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports.report import render_model_card


def tables(card: str) -> list[list[list[str]]]:
    """Cells of each table: blocks of lines that begin with a bar."""
    found = re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE)
    return [[line.strip("|").split("|") for line in block.splitlines()] for block in found]


def test_every_table_is_whole() -> None:
    for table in (found := tables(render_model_card(make_inputs()))):
        assert {len(row) for row in table} == {len(table[0])}
        assert all(set(cell) == {"-"} for cell in table[1])
    assert [len(table) - 2 for table in found] == [1 + len(PAPER), len(EMOTIONS), len(PAPER)]


def test_the_figures_are_the_reports() -> None:
    card = render_model_card(make_inputs())
    assert "Fused 71.8\u00a0% vs best single 68.7\u00a0%: +3.10 points" in card
    assert "| fused | 71.8\u00a0% | 0.698 | 0.823 | 0.382 | 0.021 | 71.8\u00a0% |" in card
    assert "| disgust (rare) | 55 |" in card
    assert "Gate: passed." in card
    assert "279 test images also stand in training" in card


@pytest.mark.parametrize("synthetic", [True, False])
def test_of_synthetic_faces_it_says_so_and_claims_nothing_of_fer2013(synthetic: bool) -> None:
    card = render_model_card(make_inputs(synthetic=synthetic))
    assert ("Synthetic data" in card) == synthetic
    assert ("arXiv 1307.0414" in card) != synthetic


def test_without_clean_images_the_table_has_no_such_column() -> None:
    inputs = make_inputs()
    bare = replace(inputs, evaluation=replace(inputs.evaluation, clean=None))
    card = render_model_card(bare)
    assert "clean" not in card
    assert {len(row) for row in tables(card)[0]} == {6}

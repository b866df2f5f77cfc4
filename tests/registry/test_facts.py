"""What a version is told of itself, from an evaluation and from the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_inputs import make_inputs

from fer_pipeline.params.load import load_params
from fer_pipeline.registry.facts import figure_tags, headline, recipe_name

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_the_figures_of_fused_and_every_single_and_the_gain_are_told() -> None:
    evaluation = make_inputs().evaluation
    figures = headline(evaluation)
    assert figures["accuracy"] == 0.718
    assert figures["accuracy.resnet101"] == evaluation["single"]["resnet101"]["accuracy"]
    assert figures["macro_f1.inception_v3"] == evaluation["single"]["inception_v3"]["macro_f1"]
    assert (figures["gain"], figures["mcnemar_p"]) == (0.031, 0.0001)
    assert figures["gain_ci95_low"] == pytest.approx(0.0204)
    assert figures["clean_accuracy"] == 0.718
    assert "clean_accuracy" not in headline({**evaluation, "clean": None})


def test_tags_are_the_figures_as_text_and_the_images_they_are_of() -> None:
    tags = figure_tags(make_inputs().evaluation)
    assert tags["accuracy"] == "0.718"
    assert (tags["test.images"], tags["test.sha256"]) == ("3589", "ab" * 32)
    assert tags["best_single"] == "resnet50"
    assert all(isinstance(text, str) for text in tags.values())


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_params_are_named_by_the_recipe_that_they_equal(name: str) -> None:
    assert recipe_name(load_params(RECIPES / f"{name}.yaml"), RECIPES) == name


def test_a_comment_makes_no_other_recipe_but_a_value_does(tmp_path: Path) -> None:
    params = load_params(RECIPES / "paper.yaml")
    text = (RECIPES / "paper.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(f"# mine\n{text}")
    (tmp_path / "broken.yaml").write_text("seed: [")
    assert recipe_name(params, tmp_path) == "mine"
    assert recipe_name(params.model_copy(update={"seed": 77}), tmp_path) == "custom"

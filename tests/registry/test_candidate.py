"""The recipe that a version is named by."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_pipeline.params.load import load_params
from fer_pipeline.registry.runs import recipe_name

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


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

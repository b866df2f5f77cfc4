"""What a version is told of itself as tags: its figures and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fer_pipeline.errors import ParamsError
from fer_pipeline.params.load import load_params

if TYPE_CHECKING:
    from fer_pipeline.evaluation.result import Evaluation
    from fer_pipeline.params.schema import Params


def figure_tags(evaluation: Evaluation) -> dict[str, str]:
    """The headline of an evaluation as text, and on which images it was measured."""
    return {key: f"{value:.6g}" for key, value in evaluation.headline().items()} | {
        "best_single": evaluation.test.best_single,
        "protocol": evaluation.protocol,
        "test.images": str(evaluation.test.images),
        "test.sha256": evaluation.test_sha256,
    }


def recipe_name(params: Params, recipes: Path) -> str:
    """The recipe whose values these are, whatever its comments; `custom` where there is none."""
    for path in sorted(recipes.glob("*.yaml")):
        try:
            if load_params(path) == params:
                return path.stem
        except ParamsError:
            continue  # a broken recipe is not what was run
    return "custom"

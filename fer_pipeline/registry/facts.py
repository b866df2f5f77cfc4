"""What a version is told of itself as tags: its figures and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_pipeline.errors import ParamsError
from fer_pipeline.params.load import load_params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fer_pipeline.params.schema import Params


def headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an evaluation that a run and a version show.

    Args:
        evaluation: the content of `metrics/evaluation.json`.
    """
    fused, gain = evaluation["fused"], evaluation["gain"]
    figures = {key: fused[key] for key in ("accuracy", "macro_f1", "nll", "ece")}
    for name, one in evaluation["single"].items():
        figures |= {f"{key}.{name}": one[key] for key in ("accuracy", "macro_f1")}
    figures |= {
        "gain": gain["accuracy"],
        "gain_ci95_low": gain["ci95"][0],
        "gain_ci95_high": gain["ci95"][1],
        "mcnemar_p": gain["mcnemar_p"],
    }
    if evaluation["clean"] is not None:
        figures["clean_accuracy"] = evaluation["clean"]["fused"]["accuracy"]
    return figures


def figure_tags(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """`headline` as text, and on which images it was measured."""
    return {key: f"{value:.6g}" for key, value in headline(evaluation).items()} | {
        "best_single": str(evaluation["best_single"]),
        "protocol": str(evaluation["protocol"]),
        "test.images": str(evaluation["test"]["images"]),
        "test.sha256": str(evaluation["test"]["sha256"]),
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

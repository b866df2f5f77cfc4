"""Stage `calibrate`: fusion weights and temperature, fitted on val, and how stable they are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fer_pipeline.arrays import FloatArray
from fer_pipeline.data.faces import load_split
from fer_pipeline.files import write_csv, write_json
from fer_pipeline.fusion.methods import (
    FittedMethod,
    fit_methods,
    prepare_methods,
    require_method,
)
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import Fusion
from fer_pipeline.fusion.simplex import simplex_rows
from fer_pipeline.fusion.stability import Spread, Stability, measure_stability
from fer_pipeline.paths import FUSION, SIMPLEX, VAL

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def calibrate(params: Params) -> None:
    """Write `models/fused/fusion.json` and the map of val accuracy over all weights.

    Raises:
        DataError: val, or some logits, are missing or damaged.
        FusionError: the method can't take so many backbones, or the logits can't be fused.
    """
    names, settings = list(params.backbones), params.fusion
    require_method(settings.method, len(names))
    val = load_split(VAL)
    logits = read_logits(names, "val")
    fitters = prepare_methods(logits, val.labels, names, settings)
    candidates = fit_methods(fitters, logits, val.labels)
    stability = measure_stability(
        fitters, logits, val.labels, val.groups, settings.stability_draws, params.seed
    )
    chosen = candidates[settings.method]
    fusion = Fusion(settings.method, _by_name(names, chosen.weights), chosen.temperature)
    methods = {
        method: _candidate_json(names, candidate)
        | {"stability": _stability_json(names, stability[method])}
        for method, candidate in candidates.items()
    }
    write_json(FUSION, {**fusion.to_json(), "methods": methods})
    write_csv(SIMPLEX, simplex_rows(logits, val.labels, names))
    for method, candidate in candidates.items():
        log.info(
            "%s %-9s val accuracy %.2f %%, %.2f %% where held out",
            "*" if method == settings.method else " ",
            method,
            100 * candidate.accuracy,
            100 * stability[method].held_out_accuracy,
        )


def _candidate_json(names: list[str], candidate: FittedMethod) -> dict[str, object]:
    return {
        "weights": _by_name(names, candidate.weights),
        "temperature": candidate.temperature,
        "val_accuracy": candidate.accuracy,
        "val_nll": candidate.nll,
    }


def _stability_json(names: list[str], found: Stability) -> dict[str, object]:
    return {
        "bootstrap": _spread_json(names, found.bootstrap),
        "folds": _spread_json(names, found.folds) | {"held_out_accuracy": found.held_out_accuracy},
    }


def _spread_json(names: list[str], spread: Spread) -> dict[str, object]:
    return {"mean": _by_name(names, spread.mean), "sd": _by_name(names, spread.sd)}


def _by_name(names: list[str], values: FloatArray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))

"""Stage `calibrate`: fusion weights and temperature, fitted on val, and how stable they are."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_pipeline.data.faces import load_split
from fer_pipeline.files import write_csv, write_json
from fer_pipeline.fusion.methods import METHODS, fit_methods, prepare_methods
from fer_pipeline.fusion.predictions import read_logits, read_settings
from fer_pipeline.fusion.result import Fusion
from fer_pipeline.fusion.stability import measure_stability
from fer_pipeline.fusion.weights import simplex_rows
from fer_pipeline.paths import FUSION, SIMPLEX, VAL

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def calibrate(params: Params) -> None:
    """Write `models/fused/fusion.json` and the map of val accuracy over all weights.

    Raises:
        DataError: val, or some logits, are missing or damaged.
        FusionError: the logits can't be fused.
    """
    names, settings = list(params.backbones), params.fusion
    val = load_split(VAL)
    computed = read_settings(names)
    logits = read_logits(names, "val", len(val))
    fitters = prepare_methods(logits, val.labels, settings)
    fitted = fit_methods(fitters, logits, val.labels)
    stability = measure_stability(
        fitters, logits, val.labels, val.groups, settings.stability_draws, params.seed
    )
    methods = {
        method: {"note": METHODS[method].note}
        | _by_name(names, asdict(own) | {"stability": asdict(stability[method])})
        for method, own in fitted.items()
    }
    chosen = methods[settings.method]
    fusion = Fusion(settings.method, chosen["weights"], chosen["temperature"], computed, methods)
    write_json(FUSION, asdict(fusion))
    write_csv(SIMPLEX, simplex_rows(logits, val.labels, names))
    for method, own in fitted.items():
        log.info(
            "%s %-9s val accuracy %.2f %%, %.2f %% where held out",
            "*" if method == settings.method else " ",
            method,
            100 * own.val_accuracy,
            100 * stability[method].folds.held_out_accuracy,
        )


def _by_name(names: list[str], found: dict[str, Any]) -> dict[str, Any]:
    """The same with each array of M weights as a weight per backbone, at any depth."""
    named = {}
    for key, value in found.items():
        if isinstance(value, np.ndarray):
            value = dict(zip(names, value.tolist(), strict=True))
        named[key] = _by_name(names, value) if isinstance(value, dict) else value
    return named

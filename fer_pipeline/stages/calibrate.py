"""Stage `calibrate`: fusion weights and temperature, fitted on val."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from fer_pipeline.data.faces import load_split
from fer_pipeline.fusion.weights import Candidate, fit_all, simplex_rows
from fer_pipeline.layout import FUSION, SIMPLEX, VAL
from fer_pipeline.models.fusion import Fusion
from fer_pipeline.stages.launch import run_stage
from fer_pipeline.stages.logits import read_logits
from fer_pipeline.writing import write_csv, write_json

if TYPE_CHECKING:
    from fer_pipeline.params import Params

log = logging.getLogger(__name__)


def calibrate(params: Params) -> None:
    """Write `models/fused/fusion.json` and the map of val accuracy over all weights."""
    names = list(params.backbones)
    labels = load_split(VAL).labels
    logits = read_logits(names, "val")
    candidates = fit_all(logits, labels, names, params.fusion.accuracy_exponent)
    chosen = candidates[params.fusion.method]
    fusion = Fusion(params.fusion.method, _by_name(names, chosen), chosen.temperature)
    methods = {
        method: {
            "weights": _by_name(names, candidate),
            "temperature": candidate.temperature,
            "val_accuracy": candidate.accuracy,
            "val_nll": candidate.nll,
        }
        for method, candidate in candidates.items()
    }
    write_json(FUSION, {**fusion.to_json(), "methods": methods})
    write_csv(SIMPLEX, simplex_rows(logits, labels, names))
    for method, candidate in candidates.items():
        mark = "*" if method == params.fusion.method else " "
        log.info("%s %-9s val accuracy %.2f %%", mark, method, 100 * candidate.accuracy)


def _by_name(names: list[str], candidate: Candidate) -> dict[str, float]:
    return dict(zip(names, candidate.weights.tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(run_stage(calibrate, "Fit the fusion weights and the temperature on val."))

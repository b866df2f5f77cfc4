"""Stage `report`: the page on the evaluation and the model card, drawn from figures alone."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from fer_pipeline.data.examples import read_examples
from fer_pipeline.evaluation.gate import judge
from fer_pipeline.evaluation.result import read_evaluation
from fer_pipeline.files import read_csv, write_text
from fer_pipeline.paths import (
    DATA_METRICS,
    EVALUATION,
    FUSION,
    MODEL_CARD,
    REPORT,
    SIMPLEX,
    TEST_EXAMPLES,
    provenance,
    require,
    training_curve,
)
from fer_pipeline.reports.report import ReportInputs, render_model_card, render_report

if TYPE_CHECKING:
    from pathlib import Path

    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def report(params: Params) -> None:
    """Write `reports/report.html` and `reports/model_card.md`.

    Neither says when or from which commit it was drawn: a new style sheet changes the page, and
    leaves the card as it is.
    """
    evaluation = read_evaluation(EVALUATION)
    inputs = ReportInputs(
        evaluation=evaluation,
        fusion=_read(FUSION, "calibrate"),
        data=_read(DATA_METRICS, "prepare"),
        verdict=judge(evaluation.test, params.gate),
        curves={
            name: read_csv(require(training_curve(name), f"train@{name}"))
            for name in params.backbones
        },
        simplex=read_csv(require(SIMPLEX, "calibrate")),
        examples=read_examples(TEST_EXAMPLES, "evaluate"),
        provenance={name: _read(provenance(name), f"train@{name}") for name in params.backbones},
        recipe=_recipe(params),
    )
    write_text(REPORT, render_report(inputs))
    write_text(MODEL_CARD, render_model_card(inputs))
    log.info("see %s and %s", REPORT, MODEL_CARD)


def _recipe(params: Params) -> dict[str, Any]:
    return {
        "seed": params.seed,
        "backbones": {
            name: {
                "weights": own.weights,
                "image_size": own.image_size,
                "head_epochs": own.head.epochs if own.head else 0,
                "finetune_epochs": own.finetune.epochs,
            }
            for name, own in params.backbones.items()
        },
    }


def _read(path: Path, stage: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(require(path, stage).read_text(encoding="utf-8"))
    return content

"""Stage `report`: the page on the evaluation and the model card, drawn from figures alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fer_pipeline import paths
from fer_pipeline.data.faces import read_examples
from fer_pipeline.evaluation.gate import judge
from fer_pipeline.evaluation.result import read_evaluation
from fer_pipeline.files import read_csv, read_json, write_csv, write_text
from fer_pipeline.fusion.result import read_fusion
from fer_pipeline.reports.report import ReportInputs, render_model_card, render_report

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def report(params: Params) -> None:
    """Write `reports/report.html`, `reports/model_card.md` and the curves as one file for DVC.

    None says when or from which commit it was drawn: a new style sheet changes the page, and
    leaves the card as it is.
    """
    evaluation = read_evaluation(paths.EVALUATION)
    inputs = ReportInputs(
        evaluation=evaluation,
        fusion=read_fusion(paths.FUSION),
        data=read_json(paths.DATA_METRICS, "prepare"),
        verdict=judge(evaluation.test, params.gate),
        curves={
            name: read_csv(paths.training_curve(name), f"train@{name}") for name in params.backbones
        },
        simplex=read_csv(paths.SIMPLEX, "calibrate"),
        examples=read_examples(paths.TEST_EXAMPLES, "evaluate"),
        provenance={
            name: read_json(paths.provenance(name), f"train@{name}") for name in params.backbones
        },
        seed=params.seed,
        backbones=params.backbones,
    )
    write_text(paths.REPORT, render_report(inputs))
    write_text(paths.MODEL_CARD, render_model_card(inputs))
    columns = ("epoch", "phase", "val_accuracy")
    rows = [
        {"backbone": name, **{column: row[column] for column in columns}}
        for name, curve in inputs.curves.items()
        for row in curve
    ]
    write_csv(paths.CURVES, rows)
    log.info("see %s and %s", paths.REPORT, paths.MODEL_CARD)

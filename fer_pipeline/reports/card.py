"""The model card (Mitchell et al. 2019, arXiv 1810.03993), written from the report's figures."""

from __future__ import annotations

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.metrics import METRICS
from fer_pipeline.reports.page import render_text
from fer_pipeline.reports.plots import rare_classes
from fer_pipeline.reports.report import ReportInputs, verdict_sentence


def render_model_card(inputs: ReportInputs) -> str:
    """The card as Markdown."""
    evaluation = inputs.evaluation
    return render_text(
        "model_card.md.j2",
        inputs=inputs,
        evaluation=evaluation,
        names=list(inputs.fusion["weights"]),
        source=inputs.data["source"],
        images=inputs.data["images"],
        quality=inputs.data["quality"],
        emotions=EMOTIONS,
        metrics=METRICS,
        verdict=verdict_sentence(evaluation.test),
        rare=rare_classes(evaluation.test.fused),
    )

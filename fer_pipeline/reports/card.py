"""The model card (Mitchell et al. 2019, arXiv 1810.03993), written from the report's figures."""

from __future__ import annotations

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports.page import render_text
from fer_pipeline.reports.plots import rare_classes
from fer_pipeline.reports.report import ReportInputs, verdict_sentence


def render_model_card(inputs: ReportInputs) -> str:
    """The card as Markdown."""
    evaluation, clean = inputs.evaluation, inputs.evaluation["clean"]
    per_class = evaluation["fused"]["per_class"]
    return render_text(
        "model_card.md.j2",
        inputs=inputs,
        evaluation=evaluation,
        names=list(inputs.fusion["weights"]),
        source=inputs.data["source"],
        images=inputs.data["images"],
        quality=inputs.data["quality"],
        emotions=EMOTIONS,
        verdict=verdict_sentence(evaluation),
        rows={"fused": evaluation["fused"], **evaluation["single"]},
        clean_rows={"fused": clean["fused"], **clean["single"]} if clean else {},
        rare=rare_classes({name: own["images"] for name, own in per_class.items()}),
    )

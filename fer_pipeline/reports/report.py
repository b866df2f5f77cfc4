"""The page on the fused model against the single ones, and the model card.

The card follows Mitchell et al. (2019, arXiv 1810.03993).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fer_pipeline.data.faces import Example
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.gate import Verdict
from fer_pipeline.evaluation.metrics import METRICS
from fer_pipeline.evaluation.result import Evaluation
from fer_pipeline.evaluation.significance import conclude
from fer_pipeline.fusion.result import Fusion
from fer_pipeline.params.schema import BackboneParams
from fer_pipeline.reports import page, plots
from fer_pipeline.reports.simplex_plot import simplex_map


@dataclass(frozen=True)
class ReportInputs:
    """What report and card are made from. All accuracies are fractions.

    Attributes:
        evaluation: of the fused and the single models.
        fusion: weights, temperature, and what the other methods give.
        data: the content of `metrics/data.json`.
        verdict: of the gate.
        curves: rows of each backbone's training curve.
        simplex: rows of the grid of weights: one column per backbone, and val_accuracy.
        examples: faces of the kinds `rescued`, `broken` and `mistakes`, with a `Case` as facts.
        provenance: per backbone seconds, hardware, precision, torch, commit, dirty.
        seed, backbones: as in `params.yaml`.
    """

    evaluation: Evaluation
    fusion: Fusion
    data: Mapping[str, Any]
    verdict: Verdict
    curves: Mapping[str, Sequence[Mapping[str, str]]]
    simplex: Sequence[Mapping[str, str]]
    examples: Sequence[Example]
    provenance: Mapping[str, Mapping[str, Any]]
    seed: int
    backbones: Mapping[str, BackboneParams]


def render_report(inputs: ReportInputs) -> str:
    """The whole page as HTML, with the card at its end."""
    evaluation = inputs.evaluation
    return page.render_page(
        "report.html.j2",
        **_shared(inputs),
        card=page.markdown(render_model_card(inputs)),
        meaning=conclude(
            evaluation.test.gain, "Fusing helps on this test set", "Fusing harms on this test set"
        ),
        figures=_figures(inputs),
        confusions=[
            (name, page.embed(plots.confusion_matrix(counts), f"plot-confusion-{index}"))
            for index, (name, counts) in enumerate(evaluation.confusion.items())
        ],
    )


def render_model_card(inputs: ReportInputs) -> str:
    """The card as Markdown."""
    rare = plots.rare_classes(inputs.evaluation.test.fused)
    return page.render_text("model_card.md.j2", **_shared(inputs), rare=rare)


def _shared(inputs: ReportInputs) -> dict[str, Any]:
    evaluation, clean = inputs.evaluation, inputs.evaluation.clean
    return {
        "inputs": inputs,
        "evaluation": evaluation,
        # Only where it is another set than the whole.
        "clean": clean if clean and clean.images < evaluation.test.images else None,
        "source": inputs.data["source"],
        "metrics": METRICS,
        "emotions": EMOTIONS,
    }


def _figures(inputs: ReportInputs) -> dict[str, Markup | None]:
    test, reliability = inputs.evaluation.test, inputs.evaluation.reliability
    methods = {name: own["weights"] for name, own in inputs.fusion.methods.items()}
    figures = {
        "accuracy": plots.accuracy_bars({name: one.accuracy for name, one in test.models.items()}),
        "simplex": simplex_map(inputs.simplex, methods, inputs.fusion.method),
        "reliability": plots.reliability_diagram(reliability.before, reliability.after),
        "recall": plots.recall_bars(test.fused, test.single[test.best_single], test.best_single),
        "curves": plots.training_curves(inputs.curves),
    }
    return {name: figure and page.embed(figure, f"plot-{name}") for name, figure in figures.items()}

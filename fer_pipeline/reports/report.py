"""The report: one page on the fused model against the single ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fer_pipeline.data.examples import Example
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.cases import Case
from fer_pipeline.evaluation.comparison import Comparison
from fer_pipeline.evaluation.gate import Verdict
from fer_pipeline.evaluation.metrics import METRICS
from fer_pipeline.evaluation.result import Evaluation
from fer_pipeline.evaluation.significance import conclude
from fer_pipeline.reports import plots
from fer_pipeline.reports.page import (
    NBSP,
    Shown,
    embed,
    p_value,
    percent,
    png_uri,
    points,
    render_page,
)
from fer_pipeline.reports.simplex_plot import simplex_map

METHOD_NOTES = {
    "uniform": "plain average",
    "accuracy": "weight follows val accuracy, as in Cao et al.",
    "nll": "weights with the lowest val NLL",
    "greedy": "one model after the other, whichever helps val accuracy most",
    "grid": "the best val accuracy of all weights on a grid",
}


@dataclass(frozen=True)
class ReportInputs:
    """What the page is made from. All accuracies are fractions.

    Attributes:
        evaluation: of the fused and the single models.
        fusion: the content of `fusion.json`.
        data: the content of `metrics/data.json`.
        verdict: of the gate.
        curves: rows of each backbone's training curve.
        simplex: rows of the grid of weights: one column per backbone, and val_accuracy.
        examples: faces of the kinds `rescued`, `broken` and `mistakes`, with a `Case` as facts.
        recipe: seed, and per backbone weights, image_size, head_epochs, finetune_epochs.
        provenance: per backbone seconds, hardware, precision, torch, commit, dirty.
    """

    evaluation: Evaluation
    fusion: Mapping[str, Any]
    data: Mapping[str, Any]
    verdict: Verdict
    curves: Mapping[str, Sequence[Mapping[str, str]]]
    simplex: Sequence[Mapping[str, str]]
    examples: Sequence[Example]
    recipe: Mapping[str, Any]
    provenance: Mapping[str, Mapping[str, Any]]


def render_report(inputs: ReportInputs) -> str:
    """The whole page as HTML."""
    return render_page(
        "report.html.j2",
        status="passed" if inputs.verdict.passed else "failed",
        source=inputs.data["source"],
        inputs=inputs,
        evaluation=inputs.evaluation,
        verdict=verdict_sentence(inputs.evaluation.test),
        meaning=conclude(
            inputs.evaluation.test.gain,
            "Fusing helps on this test set",
            "Fusing harms on this test set",
        ),
        sections=_score_sections(inputs),
        metrics=METRICS,
        method_notes=METHOD_NOTES,
        figures=_figures(inputs),
        confusions=_confusions(inputs),
        galleries=_galleries(inputs),
        minutes=sum(made["seconds"] for made in inputs.provenance.values()) / 60,
    )


def verdict_sentence(test: Comparison) -> str:
    """What the fused model gains on all test images or on the clean ones, in one sentence."""
    best, gain = test.single[test.best_single], test.gain
    low, high = (points(value) for value in gain.ci95)
    return (
        f"Fused {percent(test.fused.accuracy)} vs best single {percent(best.accuracy)}: "
        f"{points(gain.accuracy, '+')} points "
        f"(95{NBSP}% interval {low} to {high}, McNemar p{NBSP}{p_value(gain.mcnemar_p)})"
    )


def _score_sections(inputs: ReportInputs) -> list[tuple[str, str, Comparison]]:
    """Title, note and scores of each set of test images."""
    evaluation = inputs.evaluation
    official = evaluation.protocol == "official" and not inputs.data["source"]["synthetic"]
    sections = [("Official test" if official else "Test", "", evaluation.test)]
    if evaluation.clean is not None:
        gain = verdict_sentence(evaluation.clean)
        note = f"Test images with no exact duplicate in training. {gain}."
        sections.append(("Clean subset", note, evaluation.clean))
    return sections


def _figures(inputs: ReportInputs) -> dict[str, Markup | None]:
    test, reliability = inputs.evaluation.test, inputs.evaluation.reliability
    methods = {name: own["weights"] for name, own in inputs.fusion["methods"].items()}
    figures = {
        "accuracy": plots.accuracy_bars({name: one.accuracy for name, one in test.models.items()}),
        "simplex": simplex_map(inputs.simplex, methods, inputs.fusion["method"]),
        "reliability": plots.reliability_diagram(reliability.before, reliability.after),
        "recall": plots.recall_bars(test.fused, test.single[test.best_single], test.best_single),
        "curves": plots.training_curves(inputs.curves),
    }
    return {name: figure and embed(figure, f"plot-{name}") for name, figure in figures.items()}


def _galleries(inputs: ReportInputs) -> list[tuple[str, str, int, list[Shown]]]:
    """Title, explanation, how many there are in all, and the faces of each kind of case."""
    best = inputs.evaluation.test.best_single
    kinds = {
        "rescued": ("Rescued", f"Wrong by {best}, right when fused."),
        "broken": ("Broken", f"Right by {best}, wrong when fused."),
        "mistakes": (
            "The surest mistakes",
            "Wrong when fused, with the highest confidence. Some labels are wrong instead.",
        ),
    }
    return [
        (
            title,
            note,
            inputs.evaluation.cases[kind],
            [_show(one, best) for one in inputs.examples if one.kind == kind],
        )
        for kind, (title, note) in kinds.items()
    ]


def _show(example: Example, best: str) -> Shown:
    case = Case(**example.facts)
    actual, fused, single = (EMOTIONS[one] for one in (case.actual, case.fused, case.single))
    lines = [
        f"labelled {actual}",
        f"fused: {fused}, {100 * case.confidence:.0f}{NBSP}%",
        f"{best}: {single}",
    ]
    return png_uri(example.pixels), f"Face {', '.join(lines)}", lines


def _confusions(inputs: ReportInputs) -> list[tuple[str, Markup]]:
    """Name and figure of the fused model's and each backbone's confusion matrix."""
    return [
        (name, embed(plots.confusion_matrix(counts), f"plot-confusion-{index}"))
        for index, (name, counts) in enumerate(inputs.evaluation.confusion.items())
    ]

"""The figures of `metrics/data.json` in words: what was found, and why it matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fer_pipeline.reports.page import NBSP, count, p_value, percent, points

Data = Mapping[str, Any]
"""The content of `metrics/data.json`."""

LEFT_OUT = {
    "not_a_face": ("Pictures that show no face", "Left out: their labels say so."),
    "unknown": ("Faces of unknown expression", "Left out: their labels name none of the seven."),
    "contempt": ("Faces that show contempt", "Left out: it is none of the seven expressions."),
    "no_majority": ("Faces without a majority", "Left out: no expression has most of the votes."),
}
CLEANED = {
    "constant_dropped": ("Training faces of one grey value", "Dropped: nothing to recognise."),
    "duplicates_dropped": (
        "Training pictures that also stand in val or test",
        "Dropped, so that no answer is known beforehand.",
    ),
    "conflicts_dropped": (
        "Equal training pictures with different labels",
        "Dropped: no label is sure.",
    ),
    "conflicts_relabelled": (
        "Equal training pictures with different labels",
        "Relabelled: now they have the label that most of them had.",
    ),
}
# Cohen's words for the effect size w, which Cramér's V equals where one side has two rows.
EFFECTS = ((0.1, "hardly any difference"), (0.3, "a small difference"), (0.5, "a medium one"))


@dataclass(frozen=True)
class Fact:
    """One figure, what it counts, and what it means."""

    figure: str
    name: str
    meaning: str


def verdict_sentence(data: Data) -> str:
    """What kind of set this is, in one sentence."""
    faces, known = count(data["quality"]["images"]), data["known"]
    if data["source"]["synthetic"]:
        return f"{faces} synthetic faces, drawn by code"
    if known is None:
        return f"{faces} faces; FER2013’s class counts do not apply to their labels"
    if known["differences"]:
        return f"{faces} faces; class counts differ from FER2013’s in {_places(known)}"
    return f"{faces} faces, as FER2013 is known"


def status(data: Data) -> Literal["passed", "failed", ""]:
    """Whether the set is FER2013 as known and near enough to its earlier version.

    Nothing is claimed of a set that does not compare with FER2013, unless it has drifted.
    """
    known = data["known"]
    if _has_drifted(data["drift"]):
        return "failed"
    if known is None:
        return ""
    return "failed" if known["differences"] else "passed"


def remarks(data: Data) -> list[str]:
    """What follows from the verdict, one sentence each."""
    known, found = data["known"], []
    if known is not None and known["differences"]:
        found.append("Scores on this set do not compare with published ones.")
    elif known is not None:
        found.append("Every class of every split has as many faces as in FER2013.")
    if _has_drifted(data["drift"]):
        found.append("It has drifted further from the earlier version than the limit allows.")
    return found


def faults(data: Data) -> list[Fact]:
    """What is wrong with the set; a figure of 0 is a fault that was looked for in vain."""
    quality, test = data["quality"], sum(data["classes"]["PrivateTest"].values())
    surplus = count(quality["images"] - quality["distinct"])
    in_train = percent(quality["test_in_train"] / max(test, 1))
    found = (
        (
            quality["duplicate_groups"],
            "Groups of equal pictures",
            f"The same pixels more than once: {surplus} pictures add nothing new, and yet count.",
        ),
        (
            quality["across_splits"],
            "Groups of equal pictures over several splits",
            "What is learned by heart in one split is then recognised in another.",
        ),
        (
            quality["val_in_train"],
            "PublicTest pictures that also stand in Training",
            "Choices made on them favour the model that remembers.",
        ),
        (
            quality["test_in_train"],
            "PrivateTest pictures that also stand in Training",
            f"{in_train} of PrivateTest: a model can know the answers. "
            "The report gives every score without them too.",
        ),
        (
            quality["near_duplicate_groups"],
            "Groups of near duplicates",
            "Pictures that look the same although their pixels differ: "
            "lighter, shifted or compressed again.",
        ),
        (
            quality["near_across_splits"],
            "Groups of near duplicates over several splits",
            "They leak from split to split as equal pictures do, but are harder to find.",
        ),
        (
            quality["near_test_in_train"],
            "PrivateTest pictures that look like one in Training",
            "No exact copies, so the report’s clean subset still holds them.",
        ),
        (
            quality["conflicting"],
            "Groups of equal pictures with different labels",
            "No model can be right on all of them: they blur what it learns and cap its score.",
        ),
        (
            quality["constant"],
            "Faces of one grey value",
            "There is nothing to recognise: any answer is a guess.",
        ),
        (
            data["ingest"]["resized"],
            "Pictures of another size",
            "Scaled to 48 × 48 on the way in, so that they may be less sharp than the others.",
        ),
    )
    return [Fact(count(number), name, meaning) for number, name, meaning in found]


def cleaning(data: Data) -> list[Fact]:
    """What was left out or changed on the way in, and by `prepare`."""
    ingest, cleaned = data["ingest"], data["cleaning"]
    unlabelled = ("Pictures without a label", "Ignored: there is nothing to learn from them.")
    found = [
        (ingest["unlabelled"], unlabelled),
        *((ingest["dropped"][reason], words) for reason, words in LEFT_OUT.items()),
        *((cleaned[step], words) for step, words in CLEANED.items()),
    ]
    return [Fact(count(number), *words) for number, words in found if number]


def drift(data: Data) -> list[Fact]:
    """How far the set is from its earlier version; empty where there is none."""
    found = data["drift"]
    if found is None:
        return []
    balance, facts = found["class_balance"], []
    if balance is not None:
        facts.append(
            Fact(
                f"{balance['cramers_v']:.3f}",
                "Class shares (Cramér’s V)",
                f"On a scale from 0, equal shares, to 1, this is {_effect(balance['cramers_v'])} "
                f"(χ²{NBSP}{balance['chi2']:.1f}, p{NBSP}{p_value(balance['p'])}).",
            )
        )
    for measure, lower in (("brightness", "darker"), ("contrast", "flatter")):
        distance = found[measure]
        facts.append(
            Fact(
                f"{distance['ks']:.3f}",
                f"{measure.capitalize()} (Kolmogorov-Smirnov distance)",
                f"Wherever the line is drawn, the share of {lower} faces differs by "
                f"{points(distance['ks'])} points at most (p{NBSP}{p_value(distance['p'])}).",
            )
        )
    return facts


def drift_sentence(data: Data) -> str:
    """The largest of the three distances against its limit."""
    found = data["drift"]
    largest, limit = f"{found['largest']:.3f}", found["limit"]
    if limit is None:
        return f"The largest distance is {largest}; no limit is set."
    where = "above" if _has_drifted(found) else "within"
    return f"The largest distance is {largest}, {where} the limit of {limit}."


def _has_drifted(found: Mapping[str, Any] | None) -> bool:
    return found is not None and found["limit"] is not None and found["largest"] > found["limit"]


def _effect(size: float) -> str:
    return next((words for bound, words in EFFECTS if size < bound), "a large difference")


def _places(known: Mapping[str, Any]) -> str:
    number = len(known["differences"])
    return "one place" if number == 1 else f"{number} places"

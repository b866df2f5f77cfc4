"""The table of a sweep: what each combination scored, and how far scores spread over seeds."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from scipy.special import stdtrit

from fer_pipeline.cli.compare import checkout
from fer_pipeline.errors import DataError
from fer_pipeline.files import read_json
from fer_pipeline.paths import EVALUATION, VERDICT
from flows.combinations import Combination

Row = dict[str, Any]
"""A line of the table by column; a column that a line has not is empty."""

PICK_BY_VAL = (
    "Whoever picks one picks by val (PublicTest): the best of many on test has fitted to it."
)

_WIDTH = 160


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a sample, and the 95 % interval of the mean (Student's t).

    The last two are NaN for one value.
    """

    mean: float
    deviation: float
    half: float


def spread(values: Sequence[float]) -> Spread:
    """
    Args:
        values: one or more.

    Examples:
        >>> spread([0.60, 0.62, 0.64])
        Spread(mean=0.62, deviation=0.02, half=0.0497)
    """
    count = len(values)
    deviation = statistics.stdev(values) if count > 1 else math.nan
    half = (
        float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count) if count > 1 else math.nan
    )
    return Spread(statistics.mean(values), deviation, half)


def read_row(folder: Path, one: Combination, error: str) -> Row:
    """The line of one combination: its figures, or why there are none.

    Args:
        folder: of the project, which has the experiment.
        one: the combination.
        error: why it has not ended well, or empty.
    """
    row: Row = {"experiment": one.name, **one.values}
    if error:
        return {**row, "error": error}
    try:
        with checkout(one.name, [EVALUATION, VERDICT], folder) as files:
            evaluation = read_json(files / EVALUATION, "evaluate")
            verdict = read_json(files / VERDICT, "register")
    except DataError as fault:
        return {**row, "error": str(fault)}
    val, test = evaluation["val_tta"]["single"], evaluation["single"]
    return {
        **row,
        **{f"val {name}": accuracy for name, accuracy in val.items()},
        **{f"test {name}": scores["accuracy"] for name, scores in test.items()},
        "test fused": evaluation["fused"]["accuracy"],
        "best single": evaluation["best_single"],
        "gain": evaluation["gain"]["accuracy"],
        "gate": verdict["passed"],
    }


@dataclass(frozen=True)
class Group:
    """The combinations that differ in the seed alone.

    Attributes:
        values: what they share, by dotted key.
        count: how many have figures.
        passed: how often the gate passed.
        scores: by column.
    """

    values: Row
    count: int
    passed: int
    scores: dict[str, Spread]

    @property
    def lines(self) -> list[Row]:
        """Mean, standard deviation and interval, as lines of the table."""
        means = {key: one.mean for key, one in self.scores.items()}
        gate = f"{self.passed} of {self.count}"
        lines = [{"experiment": f"mean of {self.count}", **self.values, **means, "gate": gate}]
        if self.count > 1:
            deviations = {key: one.deviation for key, one in self.scores.items()}
            halves = {key: one.half for key, one in self.scores.items()}
            lines.append({"experiment": "standard deviation", **self.values, **deviations})
            lines.append({"experiment": "95 % interval of mean, ±", **self.values, **halves})
        return lines

    @property
    def sentence(self) -> str:
        title = ", ".join(f"{key}={value}" for key, value in self.values.items()) or "all"
        fused, gain = self.scores["test fused"], self.scores["gain"]
        gate = f"gate passed in {self.passed} of {self.count}"
        if self.count == 1:
            return f"{title}: fused {fused.mean:.2%}, gain {100 * gain.mean:+z.2f} points, {gate}."
        low, high = (100 * (gain.mean + sign * gain.half) for sign in (-1, 1))
        return (
            f"{title}: fused {fused.mean:.2%} ± {100 * fused.deviation:.2f}, gain "
            f"{100 * gain.mean:+z.2f} ± {100 * gain.deviation:.2f} points (mean ± standard "
            f"deviation; 95 % interval of the mean gain {low:+z.2f} to {high:+z.2f}), {gate}."
        )


def summarize(combinations: Iterable[Combination], rows: Sequence[Row]) -> list[Group]:
    """The spread over the seeds, for each combination of the other values.

    Lines without figures do not count.
    """
    found: dict[str, list[Row]] = {}
    values: dict[str, Row] = {}
    for one, row in zip(combinations, rows, strict=True):
        if "gate" in row:
            found.setdefault(str(one.unseeded), []).append(row)
            values[str(one.unseeded)] = one.unseeded
    return [_group(values[key], lines) for key, lines in found.items()]


def _group(values: Row, rows: Sequence[Row]) -> Group:
    common = [key for key in rows[0] if _is_figure(key) and all(key in row for row in rows)]
    scores = {key: spread([row[key] for row in rows]) for key in common}
    return Group(values, len(rows), sum(row["gate"] for row in rows), scores)


def columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def as_text(row: Row) -> dict[str, str]:
    """Figures with four digits, the gate in words."""
    return {key: _as_text(key, value) for key, value in row.items()}


def _as_text(column: str, value: Any) -> str:
    if column == "gate" and isinstance(value, bool):
        return "passed" if value else "not passed"
    return f"{value:.4f}" if _is_figure(column) else str(value)


def _is_figure(column: str) -> bool:
    return column.startswith(("val ", "test ")) or column == "gain"


def render(rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """Both as a table of text."""
    names = columns(rows)
    table = Table(*(Column(name, overflow="fold") for name in names), box=box.SIMPLE)
    for part in (rows, *(group.lines for group in groups)):
        for row in map(as_text, part):
            table.add_row(*(row.get(name, "") for name in names))
        table.add_section()
    text = io.StringIO()
    Console(file=text, width=_WIDTH).print(table)
    return text.getvalue()


def conclude(groups: Iterable[Group]) -> str:
    """A sentence for each group: fused and gain, and how often the gate passed."""
    return " ".join(group.sentence for group in groups)

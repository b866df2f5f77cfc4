"""The experiments of a sweep: every combination of values of params, and what came of it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from scipy.special import stdtrit

from fer_pipeline.cli.compare import checkout
from fer_pipeline.errors import DataError, FlowError
from fer_pipeline.files import read_json
from fer_pipeline.paths import EVALUATION, PARAMS, VERDICT
from flows.params import compose

SEED = "seed"
MOST = 1000
"""Combinations of one sweep: more are a slip of the hand."""

Row = dict[str, Any]
"""A line of the table by column; a column that a line has not is empty."""

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Combination:
    """One set of values.

    Attributes:
        name: of the experiment: the values, and a digest of all that decides its outs.
        values: by dotted key.
        files: texts by path, in place of those of the commit: its params, and what else the
            project has changed.
    """

    name: str
    values: Mapping[str, Any]
    files: Mapping[str, str]

    @property
    def unseeded(self) -> dict[str, Any]:
        """What it shares with those that differ in the seed alone."""
        return {key: value for key, value in self.values.items() if key != SEED}


def parse_seeds(text: str) -> list[int]:
    """Seeds as `0..9`, both included, or `1,4,7`, or both.

    Raises:
        FlowError: it is neither.

    Examples:
        >>> parse_seeds("0..3,7")
        [0, 1, 2, 3, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise FlowError(f"--seeds is '{text}': write 0..9, or 1,4,7")
        seeds += range(first, min(last, first + MOST) + 1)
    return seeds


def parse_values(text: str) -> tuple[str, list[Any]]:
    """`KEY=A,B,C` as the key and its values, which are YAML.

    Raises:
        FlowError: it is something else.
    """
    key, _, listed = text.partition("=")
    try:
        values = YAML(typ="safe").load(f"[{listed}]")
    except YAMLError:
        values = None
    if not (key and values):
        raise FlowError(f"--set is '{text}': write KEY=A,B,C")
    return key, list(values)


def combine(
    folder: Path,
    recipe: str | None,
    values: Mapping[str, Sequence[Any]],
    commit: str,
    files: Mapping[str, str],
) -> list[Combination]:
    """Every combination of the values, with its params; the last key's values change fastest.

    Args:
        folder: of `params.yaml`.
        recipe: a name in `recipes/` whose params count in place of those.
        values: one or more, by dotted key.
        commit: of the code.
        files: texts by path that differ from the commit's.

    Raises:
        FlowError: there is no such key or recipe, nothing to combine, or too much.
        ParamsError: a combination is not valid.
    """
    if not values:
        raise FlowError("nothing to combine: give --seeds 0..9, or --set KEY=A,B,C")
    for key, listed in values.items():
        if len({str(value) for value in listed}) < len(listed):
            raise FlowError(f"{key} has a value twice: {', '.join(map(str, listed))}")
    if (count := math.prod(map(len, values.values()))) > MOST:
        raise FlowError(f"{count:,} combinations are more than {MOST:,}: give fewer values")
    found = []
    for chosen in product(*values.values()):
        one = dict(zip(values, chosen, strict=True))
        own = {**files, str(PARAMS): compose(folder, recipe, one)}
        found.append(Combination(_name(one, commit, own), one, own))
    return found


def _name(values: Mapping[str, Any], commit: str, files: Mapping[str, str]) -> str:
    """Such as `seed-3-1f09ab`: git takes it for a reference's name."""
    signed = {key: re.sub("^-", "neg", str(value)) for key, value in values.items()}
    said = "-".join(f"{key.rpartition('.')[2]}-{value}" for key, value in signed.items())
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", said.replace(".", "_")).strip("-")[:_LONGEST_NAME]
    digest = hashlib.sha256(repr([commit, sorted(files.items())]).encode()).hexdigest()[:6]
    return f"{slug}-{digest}"


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
    val, test = evaluation["val_tta"], evaluation["single"]
    return {
        **row,
        **{f"val {name}": accuracy for name, accuracy in val["single"].items()},
        "val fused": val["fused"],
        **{f"test {name}": scores["accuracy"] for name, scores in test.items()},
        "test fused": evaluation["fused"]["accuracy"],
        "best single": evaluation["best_single"],
        "gain": evaluation["gain"]["accuracy"],
        "gate": verdict["passed"],
    }


@dataclass(frozen=True)
class Group:
    """The combinations that differ in the seed alone, as far as they have figures.

    Attributes:
        values: what they share, by dotted key.
        passed: whether the gate passed, for each.
        spread: mean, standard deviation and half the 95 % interval of the mean (Student's t) of
            each column of figures; the last two are NaN for one run.
    """

    values: Row
    passed: Sequence[bool]
    spread: pd.DataFrame

    @property
    def gate(self) -> str:
        return f"{sum(self.passed)} of {len(self.passed)}"

    @property
    def lines(self) -> list[Row]:
        """Mean, standard deviation and interval, as lines of the table."""
        count = len(self.passed)
        names = (f"mean of {count}", "standard deviation", "95 % interval of mean, ±")
        spread = self.spread.to_dict("records")[: 3 if count > 1 else 1]
        lines = [
            {"experiment": name, **self.values, **line}
            for name, line in zip(names, spread, strict=False)
        ]
        lines[0]["gate"] = self.gate
        return lines

    @property
    def sentence(self) -> str:
        """Fused and gain, and how often the gate passed."""
        title = ", ".join(f"{key}={value}" for key, value in self.values.items()) or "all"
        fused, gain = self.spread["test fused"], 100 * self.spread["gain"]
        gate = f"gate passed in {self.gate}"
        if len(self.passed) == 1:
            return f"{title}: fused {fused['mean']:.2%}, gain {gain['mean']:+z.2f} points, {gate}."
        low, high = gain["mean"] - gain["half"], gain["mean"] + gain["half"]
        return (
            f"{title}: fused {fused['mean']:.2%} ± {100 * fused['std']:.2f}, gain "
            f"{gain['mean']:+z.2f} ± {gain['std']:.2f} points (mean ± standard deviation; 95 % "
            f"interval of the mean gain {low:+z.2f} to {high:+z.2f}), {gate}."
        )


def summarize(combinations: Sequence[Combination], rows: Sequence[Row]) -> list[Group]:
    """The spread over the seeds, for each combination of the other values.

    Lines without figures do not count.
    """
    found: dict[str, tuple[Row, list[Row]]] = {}
    for one, row in zip(combinations, rows, strict=True):
        if "gate" in row:
            found.setdefault(str(one.unseeded), (one.unseeded, []))[1].append(row)
    return [
        Group(values, [row["gate"] for row in group], spread(group))
        for values, group in found.values()
    ]


def spread(rows: Sequence[Row]) -> pd.DataFrame:
    """`mean`, `std` and `half` by column, of those in which each row has a figure."""
    table = pd.DataFrame(rows)
    figures = table[list(filter(_is_figure, table))].dropna(axis="columns")
    found = figures.agg(["mean", "std"])
    found.loc["half"] = figures.sem() * stdtrit(max(len(rows) - 1, 1), 0.975)
    return found


def as_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Lines as text: figures with four digits, the gate in words."""
    texts = [{key: _as_text(key, value) for key, value in row.items()} for row in rows]
    return pd.DataFrame(texts).fillna("")


def _as_text(column: str, value: Any) -> str:
    if column == "gate" and isinstance(value, bool):
        return "passed" if value else "not passed"
    return f"{value:.4f}" if _is_figure(column) else str(value)


def _is_figure(column: str) -> bool:
    return column.startswith(("val ", "test ")) or column == "gain"

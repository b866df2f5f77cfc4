"""What a sweep runs: every combination of values of params, each with the name of an experiment."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fer_pipeline.errors import FlowError
from fer_pipeline.paths import PARAMS
from flows.params import compose

SEED = "seed"
MOST = 1000
"""Combinations of one sweep: more are a slip of the hand."""

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

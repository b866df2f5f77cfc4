"""May a fused model compute in bf16? What that changes, and where it is written down.

The record of a version is full float32. Rounded to bf16 its answers differ a little: how much is
measured on val, once, when the model is registered, and kept with the version. Only a model that
hardly changes may answer in bf16, and it does where that is faster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fer_pipeline.files import read_json, write_json

PRECISION_VARIABLE = "FER_SERVING_PRECISION"
"""What sets the precision of a model that MLflow loads; `auto` if it is not set."""

MAX_ACCURACY_CHANGE = 0.002
"""How far the accuracy on val may move, up or down."""

MAX_PROBABILITY_CHANGE = 0.02
"""How far the probability of any emotion may move, on average over val."""

_FILE, _TAG = "precision.json", "bf16"


@dataclass(frozen=True)
class Bf16Change:
    """What bf16 changes on val.

    Attributes:
        accuracy: that of the fused model in bf16, less that in float32.
        probability: the mean absolute change of an emotion's probability, of the emotion with the
            largest.
    """

    accuracy: float
    probability: float

    @property
    def allowed(self) -> bool:
        return (
            abs(self.accuracy) <= MAX_ACCURACY_CHANGE and self.probability <= MAX_PROBABILITY_CHANGE
        )


def write_change(change: Bf16Change | None, folder: Path) -> None:
    write_json(folder / _FILE, {"bf16": asdict(change) if change else None})


def read_change(folder: Path) -> Bf16Change | None:
    """What `write_change` wrote; None where nothing was measured, or nothing was written."""
    if not (folder / _FILE).is_file():
        return None
    return parse_change(read_json(folder / _FILE, "register")["bf16"])


def parse_change(content: Mapping[str, float] | None) -> Bf16Change | None:
    """A change from JSON."""
    return Bf16Change(**content) if content else None


def change_tag(change: Bf16Change | None) -> dict[str, str]:
    """The tag of a version that says it."""
    told = {"allowed": change.allowed, **asdict(change)} if change else None
    return {_TAG: json.dumps(told)}


def read_tag(tags: Mapping[str, str]) -> Bf16Change | None:
    """What `change_tag` made."""
    told = json.loads(tags.get(_TAG, "null"))
    return told and Bf16Change(told["accuracy"], told["probability"])

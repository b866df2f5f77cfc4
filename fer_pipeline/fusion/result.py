"""What `models/fused/fusion.json` says: how much each backbone counts. No torch is needed here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fer_pipeline.errors import FusionError


@dataclass(frozen=True)
class Fusion:
    """What `models/fused/fusion.json` says.

    Attributes:
        method: the fusion method that counts.
        weights: per backbone, non-negative, summing to 1.
        temperature: the fused logits are divided by it before softmax.
    """

    method: str
    weights: dict[str, float]
    temperature: float

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def read_fusion(path: Path) -> Fusion:
    """Read `fusion.json`; keys beyond those of `Fusion` are ignored.

    Raises:
        FusionError: the file is missing or no fusion.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in content["weights"].items()}
        return Fusion(content["method"], weights, float(content["temperature"]))
    except FileNotFoundError:
        raise FusionError(f"{path} is missing: run 'dvc repro calibrate'") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FusionError(f"{path} is no fusion: run 'dvc repro --force calibrate'") from error

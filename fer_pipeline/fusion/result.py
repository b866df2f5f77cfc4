"""What `models/fused/fusion.json` says: how much each backbone counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.predictions import PredictSettings, read_settings

if TYPE_CHECKING:
    from fer_pipeline.params.schema import BackboneParams


@dataclass(frozen=True)
class Fusion:
    """What `models/fused/fusion.json` says.

    Attributes:
        method: the fusion method that counts.
        weights: per backbone, non-negative, summing to 1.
        temperature: the fused logits are divided by it before softmax.
        computed: how the logits of each backbone were computed to which weights and temperature
            were fitted. Empty in files from before it was recorded.
    """

    method: str
    weights: dict[str, float]
    temperature: float
    computed: dict[str, PredictSettings] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def require_predictions(self) -> None:
        """Refuse to fuse predictions that were computed in another way than those that were fitted.

        Raises:
            DataError: predictions are missing or damaged.
            FusionError: a backbone's image sizes or the test-time augmentation are others.
        """
        if read_settings(list(self.weights)) != self.computed:
            raise FusionError(
                "the fusion was fitted to logits that were computed in another way than those in "
                "predictions/: run 'dvc repro calibrate'"
            )

    def require_settings(self, backbones: Mapping[str, BackboneParams], tta: str) -> None:
        """Refuse to fuse logits that are computed in another way than those that were fitted.

        Raises:
            FusionError: a backbone's image sizes or the test-time augmentation are others.
        """
        for name, computed in self.computed.items():
            own = backbones[name]
            asked = PredictSettings(tta, own.image_size, own.eval_resize)
            if asked != computed:
                raise FusionError(
                    f"the fusion was fitted to logits of {name} computed with {_text(computed)}, "
                    f"but params.yaml has {_text(asked)}: run 'dvc repro calibrate'"
                )


def read_fusion(path: Path) -> Fusion:
    """Read `fusion.json`; keys beyond those of `Fusion` are ignored.

    Raises:
        FusionError: the file is missing or no fusion.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in content["weights"].items()}
        computed = {
            name: PredictSettings(**own) for name, own in content.get("computed", {}).items()
        }
        return Fusion(content["method"], weights, float(content["temperature"]), computed)
    except FileNotFoundError:
        raise FusionError(f"{path} is missing: run 'dvc repro calibrate'") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FusionError(f"{path} is no fusion: run 'dvc repro --force calibrate'") from error


def _text(settings: PredictSettings) -> str:
    return ", ".join(f"{key} {value}" for key, value in asdict(settings).items())

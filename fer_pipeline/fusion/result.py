"""What `models/fused/fusion.json` says: how much each backbone counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from fer_pipeline.errors import FusionError
from fer_pipeline.files import read_json, reading
from fer_pipeline.fusion.predictions import PredictSettings, read_settings

if TYPE_CHECKING:
    from fer_pipeline.params.schema import BackboneParams

Weight = Annotated[float, Field(ge=0.0, le=1.0)]
Temperature = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Fusion:
    """What `models/fused/fusion.json` says.

    Attributes:
        method: the fusion method that counts.
        weights: per backbone, non-negative, summing to 1.
        temperature: the fused logits are divided by it before softmax.
        computed: how the logits of each backbone were computed to which weights and temperature
            were fitted. Empty in files from before it was recorded.
        methods: what every method gives: its note, weights, temperature, val_accuracy, val_nll and
            stability.
    """

    method: str
    weights: dict[str, Weight]
    temperature: Temperature
    computed: dict[str, PredictSettings] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)

    def require_predictions(self, backbones: list[str]) -> None:
        """Refuse to fuse other predictions than those that were fitted.

        Raises:
            DataError: predictions are missing or damaged.
            FusionError: they are of other backbones, or image sizes or the test-time augmentation
                are others.
        """
        if set(self.weights) != set(backbones) or read_settings(backbones) != self.computed:
            raise FusionError(
                "the fusion was fitted to logits of other backbones than those in predictions/, or "
                "computed in another way: run 'dvc repro calibrate'"
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
        DataError: the file is missing or no fusion.
    """
    with reading(path, "calibrate"):
        return TypeAdapter(Fusion).validate_python(read_json(path, "calibrate"))


def _text(settings: PredictSettings) -> str:
    return ", ".join(f"{key} {value}" for key, value in asdict(settings).items())

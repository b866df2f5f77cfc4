"""`params.yaml` as frozen models that validate themselves.

The file is the only source of experiment values: no field here has a default, an unknown
key is an error, and text is never taken for a number. YAML 1.2 rules apply, as in DVC. The
sections of a training are in `training_params`, and imported from here like the others.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fer_pipeline.errors import ParamsError
from fer_pipeline.sections import Count, Fraction, Section
from fer_pipeline.training_params import (
    AugmentParams,
    BackboneParams,
    HeadParams,
    PhaseParams,
    TrainingParams,
)

__all__ = [
    "AugmentParams",
    "BackboneParams",
    "DataParams",
    "EvaluationParams",
    "FusionParams",
    "GateParams",
    "HeadParams",
    "Params",
    "PhaseParams",
    "PredictParams",
    "RegistryParams",
    "SampleParams",
    "TrainingParams",
    "Views",
    "load_params",
]

Views = Literal["centre", "flip", "five_crops_flip"]


class SampleParams(Section):
    """Size and seed of the built-in synthetic sample, in images per split."""

    train: Annotated[int, Field(ge=7)]
    val: Annotated[int, Field(ge=7)]
    test: Annotated[int, Field(ge=7)]
    seed: Annotated[int, Field(ge=0)]


class DataParams(Section):
    """How the pinned faces are read, cleaned and split.

    `sample` counts only where the built-in sample is pinned. `labels` are FER2013's own, or the
    majority of FER+'s votes. `unlabelled` says what becomes of the challenge's `test.csv` beside
    its `train.csv`. `protocol` is `official` (Training trains, PublicTest is val, PrivateTest is
    test), `paper` (Training trains; the two others together are val and test at once, as in Cao
    et al.) or `holdout` (splits that the edition has not are taken from Training, a tenth each).

    The three policies clean training images only, see `fer_pipeline.data.cleaning`. A new version
    of the source whose drift (`fer_pipeline.data.drift.Drift.largest`) is above `max_drift`
    is refused.
    """

    sample: SampleParams
    labels: Literal["fer", "ferplus_majority"]
    unlabelled: Literal["refuse", "ignore"]
    protocol: Literal["official", "paper", "holdout"]
    drop_constant: bool
    drop_train_duplicates_of: Literal["none", "val", "test", "both"]
    conflicts: Literal["keep", "majority", "drop"]
    max_drift: Fraction | None


class PredictParams(Section):
    """How logits are computed, of val and test and by the registered model.

    `views` is what a network sees of each image; the logits of all views are averaged. `centre`
    is the central crop of the image enlarged to `eval_resize`, `flip` that and its mirror image,
    `five_crops_flip` the crops in the four corners and in the centre, and their mirror images.
    """

    batch_size: Count
    views: Views


class FusionParams(Section):
    """How the backbones' logits are weighed; `method` names the one that counts.

    `greedy_rounds` is how many models `greedy` adds, the same one again included.
    `stability_draws` is how many bootstrap resamples of val each method is refitted to.
    """

    method: Literal["uniform", "accuracy", "nll", "greedy", "grid"]
    accuracy_exponent: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    greedy_rounds: Annotated[int, Field(ge=1, le=10_000)]
    stability_draws: Annotated[int, Field(ge=2, le=100_000)]


class EvaluationParams(Section):
    """Bootstrap draws behind the interval of the gain, and bins of the calibration error."""

    bootstrap_draws: Annotated[int, Field(ge=100)]
    ece_bins: Count


class GateParams(Section):
    """What a fused model must show on test to be registered.

    Its accuracy less that of every single must be above `min_gain` (a fraction, 0.01 is one
    point); with `max_p`, McNemar's p against the best single must be at most that.
    """

    min_gain: Annotated[float, Field(ge=-1.0, le=1.0)]
    max_p: Fraction | None


class PromotionParams(Section):
    """When a version that passed the gate becomes the champion.

    With `auto`, `register` promotes what the policy allows; else `fer registry promote` does. The
    policy: accuracy less the champion's, on the same test images, is above `min_gain`, and with
    `max_p` McNemar's p is at most that.
    """

    auto: bool
    min_gain: Annotated[float, Field(ge=-1.0, le=1.0)]
    max_p: Fraction | None


class RegistryParams(Section):
    """Names in MLflow."""

    experiment: Annotated[str, Field(min_length=1)]
    model_name: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")]


class Params(Section):
    """The whole of `params.yaml`."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: DataParams
    backbones: Annotated[dict[str, BackboneParams], Field(min_length=1)]
    training: TrainingParams
    predict: PredictParams
    fusion: FusionParams
    evaluation: EvaluationParams
    gate: GateParams
    promotion: PromotionParams
    registry: RegistryParams

    @model_validator(mode="after")
    def _warmup_ends_before_training_does(self) -> Params:
        for name, own in self.backbones.items():
            if self.training.warmup_epochs >= own.finetune.epochs:
                raise ValueError(
                    f"training.warmup_epochs is {self.training.warmup_epochs}: it must be below "
                    f"backbones.{name}.finetune.epochs, which is {own.finetune.epochs}"
                )
        return self


def load_params(path: Path) -> Params:
    """Read and validate a params file.

    Raises:
        ParamsError: the file is missing or no YAML, or a key is unknown, missing or
            impossible; the message names the file, the key and the value seen.
    """
    try:
        content: object = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"{path} is missing: run this in the project's folder, or copy one from recipes/"
        ) from None
    except OSError as error:
        raise ParamsError(f"{path} can't be read: {error.strerror}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path} is empty or no mapping: copy one from recipes/ to start")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error, cast(dict[str, Any], content))}") from None


def _explain(error: ValidationError, content: dict[str, Any]) -> str:
    # A misspelt key is both missing and unknown; only the latter can say what was meant.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    keys = [_key_of(fault, content) for fault in faults]
    # Where a value may be of several kinds, there is a fault for each that it is not.
    same = [fault for fault, key in zip(faults, keys, strict=True) if key == keys[0]]
    others = f" (and {len(set(keys)) - 1} more)" if len(set(keys)) > 1 else ""
    return _explain_faults(keys[0], same) + others


def _key_of(fault: ErrorDetails, content: object) -> str:
    """Where it is in the file; pydantic adds which of several kinds it has tried."""
    parts = []
    for part in fault["loc"]:
        if isinstance(content, dict) and (part in content or fault["type"] == "missing"):
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int):
            content = content[part] if part < len(content) else None
        elif part != "[key]":  # which says that the key itself is wrong
            break
        parts.append(str(part))
    return ".".join(parts)


def _explain_faults(key: str, faults: list[ErrorDetails]) -> str:
    fault = faults[0]
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(fault["loc"][-1]), _known_keys(Section), n=1)
        hint = f"did you mean '{close[0]}'?" if close else "remove it"
        if key == "data.source":
            hint = "remove it, and run 'fer source pin URI'"
        return f"{key} is not a known key: {hint}"
    if fault["type"] == "missing":
        return f"{key} is missing: see recipes/ for complete files"
    message = fault["msg"].removeprefix("Value error, ")
    if not key:  # of several keys together: it names them
        return message
    wanted = " or ".join(_wanted(one["msg"]) for one in faults)
    return f"{key} is {fault['input']!r}: it must {wanted}"


def _wanted(message: str) -> str:
    """What pydantic says of a value, as it goes on after "it must"."""
    message = re.sub(r" after validation, not \d+$| or instance of \w+", "", message)
    if found := re.fullmatch(r"\w+ should (.+)", message):
        return found[1]
    return f"be {message.removeprefix('Value error, ')}"


def _known_keys(section: type[Section]) -> list[str]:
    """Every key of a section and of those that build on it: the vocabulary for spelling hints."""
    keys = list(section.model_fields)
    for found in section.__subclasses__():
        keys.extend(_known_keys(found))
    return keys

"""The sections of `params.yaml` as frozen models that validate themselves.

The file is the only source of experiment values: no field has a default, an unknown key is an
error, and text is never taken for a number.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]


def _auto_or_count(value: object) -> object:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("auto, or a whole number from 1 on")


# One validator: of a union pydantic names in a key's path which kind it has tried.
AutoOrCount = Annotated[Literal["auto"] | int, PlainValidator(_auto_or_count)]
Tta = Literal["centre", "flip", "five_crops_flip"]
"""Choices of test-time augmentation."""
Phase = Literal["head", "finetune"]
"""The phases of a training, in their order."""


class Section(BaseModel):
    """Base of every section: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SampleParams(Section):
    """Size of the built-in synthetic sample, in images per split, and its seed."""

    train: Annotated[int, Field(ge=7)]
    val: Annotated[int, Field(ge=7)]
    test: Annotated[int, Field(ge=7)]
    seed: Annotated[int, Field(ge=0)]


class DataParams(Section):
    """How the pinned faces are read, cleaned and split.

    The three policies of cleaning concern training images only: see `fer_pipeline.data.quality`.
    """

    sample: SampleParams
    """Used only where the built-in sample is pinned."""
    labels: Literal["fer", "ferplus_majority"]
    """FER2013's own labels, or the majority of FER+'s votes."""
    unlabelled: Literal["refuse", "ignore"]
    """What becomes of the challenge's `test.csv` beside its `train.csv`, and of faces of a class
    that is none of the seven."""
    protocol: Literal["official", "paper", "holdout"]
    """`official`: Training trains, PublicTest is val, PrivateTest is test. `paper`: Training
    trains, the two others together are val and test at once, as in Cao et al. `holdout`: splits
    that the edition lacks are taken from Training, a tenth each."""
    drop_constant: bool
    """Leave out training images of a single grey value."""
    drop_train_duplicates_of: Literal["none", "val", "test", "both"]
    """Leave out training images that also stand in these splits."""
    conflicts: Literal["keep", "majority", "drop"]
    """What becomes of equal training images with different labels."""
    max_drift: Fraction | None
    """A new version of the source that drifts further than this from the last one is refused."""


class PhaseParams(Section):
    """One phase of a training."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    """At least 2: batch norm needs two images."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0, allow_inf_nan=False)]
    """The largest learning rate of the schedule."""


class HeadParams(PhaseParams):
    """The head phase, in which only the last layer is trained."""

    cached_views: Annotated[int, Field(ge=0, le=100)]
    """With K > 0 each image is augmented and sent through the frozen backbone K times in all; with
    0 once per epoch, as in the paper."""


class BackboneParams(Section):
    """One backbone's input, initial weights and phases."""

    weights: Annotated[str, Field(min_length=1)]
    """`imagenet`, `none`, or the path of a state dict."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    """Digest of the file, where `weights` is a path; else null."""
    image_size: Annotated[int, Field(ge=32, le=1024)]
    """Side of the network's input in pixels."""
    eval_resize: Annotated[int, Field(ge=32, le=2048)]
    """A validation image is enlarged to this side, then its central `image_size` pixels count."""
    head: HeadParams | None
    """Null: all weights are trained from the first epoch."""
    finetune: PhaseParams

    @property
    def phases(self) -> dict[Phase, PhaseParams]:
        """The phases that there are, in their order."""
        head: dict[Phase, PhaseParams] = {"head": self.head} if self.head else {}
        return {**head, "finetune": self.finetune}

    def cached_views(self, phase: Phase) -> int:
        """How many views of each image a phase caches; 0 where it caches none."""
        return self.head.cached_views if phase == "head" and self.head else 0

    @field_validator("eval_resize")
    @classmethod
    def _not_below_image_size(cls, value: int, info: ValidationInfo) -> int:
        image_size = info.data.get("image_size", 0)
        if value < image_size:
            raise ValueError(f"at least image_size, which is {image_size}")
        return value


class AugmentParams(Section):
    """Random changes of a training image; the paper's are crop and flip alone."""

    crop_scale: Annotated[tuple[PositiveFraction, PositiveFraction], Field(strict=False)]
    """Area of the random crop, as a fraction of the image."""
    crop_ratio: Annotated[tuple[Positive, Positive], Field(strict=False)]
    """Width of the crop to its height."""
    flip: Fraction
    """Probability of a mirror image."""
    rotation: Annotated[float, Field(ge=0.0, le=180.0)]
    """Largest angle in degrees."""
    translation: Annotated[float, Field(ge=0.0, le=0.5)]
    """Largest shift as a fraction of the image."""
    brightness: Fraction
    """Largest relative change of the greys."""
    erasing: Fraction
    """Probability that a rectangle is made grey."""

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("two numbers, the smaller first")
        return value


class TrainingParams(Section):
    """What all trainings share."""

    devices: AutoOrCount
    """How many GPUs (on a machine without one: CPU processes) share each batch."""
    precision: Literal["auto", "fp32", "bf16"]
    """`auto` takes bf16 where a few timed steps show it to be faster."""
    threads: AutoOrCount
    """CPU threads of each process; `auto` takes as many as cores are free when it starts."""
    optimizer: Literal["adam", "adamw", "sgd"]
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Nesterov momentum of `sgd`."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)]
    """Weight decay of all but norms and biases."""
    schedule: Literal["constant", "cosine", "onecycle"]
    """How the learning rate moves within each phase."""
    warmup_epochs: Annotated[int, Field(ge=0)]
    """First epochs of fine-tuning, in which the rate rises linearly."""
    clip_norm: Positive | None
    """Largest norm of the gradient."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None
    """Decay of a moving average of the weights, which then is the model."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None
    """Probability of dropout before the head; null keeps the network's own."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)]
    mixup: Annotated[float, Field(ge=0.0, le=10.0)]
    """Parameter of mixup's beta distribution; 0 is off."""
    mixup_off_epochs: Annotated[int, Field(ge=0)]
    """Number of epochs at the end without mixup."""
    patience: Count | None
    """Fine-tuning ends after so many epochs without a better val accuracy."""
    checkpoint_every_s: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    """Seconds between two checkpoints, at least; with 0 there is one after each epoch."""
    augment: AugmentParams


class PredictParams(Section):
    """How logits are computed, of val and test and by the registered model."""

    batch_size: Count
    threads: AutoOrCount
    """CPU threads; `auto` takes as many as cores are free when the stage starts."""
    tta: Tta
    """Test-time augmentation: the views of each image whose logits are averaged. `centre` is the
    central crop of the enlarged image, `flip` that and its mirror image, `five_crops_flip` the
    crops in the four corners and in the centre, and their mirror images."""


class FusionParams(Section):
    """How the backbones' logits are weighted."""

    method: Literal["uniform", "accuracy", "nll", "greedy", "grid"]
    """All are computed and reported; this one counts."""
    accuracy_exponent: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    """`accuracy`: the weight follows val accuracy to this power."""
    greedy_rounds: Annotated[int, Field(ge=1, le=10_000)]
    """How many models `greedy` adds, the same one again included."""
    stability_draws: Annotated[int, Field(ge=2, le=100_000)]
    """Bootstrap resamples of val that each method is refitted to."""


class EvaluationParams(Section):
    """How exactly the fused model is compared on test."""

    bootstrap_draws: Annotated[int, Field(ge=100)]
    """Number of resamples behind the interval of the gain."""
    ece_bins: Count
    """Bins of the expected calibration error."""


class Rule(Section):
    """How much better a model must be than another on the same test images."""

    min_gain: Annotated[float, Field(ge=-1.0, le=1.0)]
    """Its accuracy less the other's must be above this fraction; 0.01 is one point."""
    max_p: Fraction | None
    """If set, the largest McNemar p."""


class GateParams(Rule):
    """What a fused model must show to be registered: the gain is over every single model, p is
    that against the best one."""


class PromotionParams(Rule):
    """When a version that passed the gate becomes the champion: gain and p are against the last."""

    auto: bool
    """Whether `register` promotes what the policy allows; else `fer registry promote` does."""


class MonitoringParams(Section):
    """What `fer score` says of new faces."""

    max_drift: Fraction | None
    """Faces, or what the model says of them, that differ further than this from what it was
    measured on are flagged; null flags none."""


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
    monitoring: MonitoringParams
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

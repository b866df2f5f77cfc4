"""The sections of `params.yaml` that decide a training: backbones, phases, what all share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from fer_pipeline.sections import Count, Fraction, FractionRange, Positive, Section


class PhaseParams(Section):
    """One phase of a training: `learning_rate` is the largest, and batch norm needs two images."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0, allow_inf_nan=False)]


class HeadParams(PhaseParams):
    """The head phase. With `cached_views` K > 0 each image is augmented and sent through the
    frozen backbone K times in all; with 0 once per epoch, as in the paper."""

    cached_views: Annotated[int, Field(ge=0, le=100)]


class BackboneParams(Section):
    """One backbone's input, initial weights and phases.

    `weights` is `imagenet`, `none`, or the path of a state dict. The validation image is
    enlarged to `eval_resize` pixels and its central `image_size` pixels are used. `head`
    may be null: then everything is trained from the first epoch. `auxiliary_weight` is that of
    the loss of Inception's auxiliary head, which 0 leaves out.
    """

    weights: Annotated[str, Field(min_length=1)]
    image_size: Annotated[int, Field(ge=32, le=1024)]
    eval_resize: Annotated[int, Field(ge=32, le=2048)]
    auxiliary_weight: Fraction
    head: HeadParams | None
    finetune: PhaseParams

    @field_validator("eval_resize")
    @classmethod
    def _not_below_image_size(cls, value: int, info: ValidationInfo) -> int:
        image_size = info.data.get("image_size", 0)
        if value < image_size:
            raise ValueError(f"at least image_size, which is {image_size}")
        return value


class AugmentParams(Section):
    """Random changes of a training image; the paper's are crop and flip alone.

    `crop_scale` is the area of the crop as a fraction of the image, `crop_ratio` its width to its
    height, `flip` the probability of a mirror image. `rotation` is the largest angle in degrees,
    `translation` the largest shift as a fraction of the image, `brightness` the largest relative
    change of the greys, and `erasing` the probability that a rectangle is made grey.
    """

    crop_scale: FractionRange
    crop_ratio: FractionRange
    flip: Fraction
    rotation: Annotated[float, Field(ge=0.0, le=180.0)]
    translation: Annotated[float, Field(ge=0.0, le=0.5)]
    brightness: Fraction
    erasing: Fraction

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("two numbers, the smaller first")
        return value

    @field_validator("crop_scale")
    @classmethod
    def _no_larger_than_the_image(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1.0:
            raise ValueError("at most 1, the whole image")
        return value


class TrainingParams(Section):
    """What all trainings share.

    `devices` is how many GPUs (on a machine without, CPU processes) share each batch, by
    `strategy`, which is `ddp` for more than one, named or not. `precision` `auto` takes bf16 where
    a few timed steps show it to be faster; `compile` `auto` compiles on GPUs, where that can be
    done. `momentum` is that of `sgd`, which is Nesterov's. `weight_decay` spares norms and biases.
    `schedule` moves the learning rate within each phase, after `warmup_epochs` of the fine-tuning.
    `ema_decay` keeps a moving average of the weights, which then is the model. `dropout` before
    the head is the network's own where it is null. `mixup` is the parameter of its beta
    distribution, not used in the last `mixup_off_epochs`. With `patience` fine-tuning ends after
    so many epochs without a better val accuracy.
    """

    devices: Literal["auto"] | Count
    strategy: Literal["auto", "ddp"]
    precision: Literal["auto", "fp32", "bf16"]
    compile: Literal["auto"] | bool
    optimizer: Literal["adam", "adamw", "sgd"]
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)]
    schedule: Literal["constant", "cosine", "onecycle"]
    warmup_epochs: Annotated[int, Field(ge=0)]
    clip_norm: Positive | None
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)]
    mixup: Annotated[float, Field(ge=0.0, le=10.0)]
    mixup_off_epochs: Annotated[int, Field(ge=0)]
    patience: Count | None
    augment: AugmentParams

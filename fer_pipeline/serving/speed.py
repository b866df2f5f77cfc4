"""What bf16 changes and gains, measured; and the fused model in the precision that follows."""

from __future__ import annotations

import timeit
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.average import probabilities, top1_accuracy
from fer_pipeline.serving.bundle import Bf16Change
from fer_pipeline.serving.predictor import FusedPredictor

if TYPE_CHECKING:
    from fer_pipeline.arrays import FloatArray, Int64Array, UInt8Array
    from fer_pipeline.serving.bundle import Bundle

PrecisionChoice = Literal["auto", "fp32", "bf16"]

MIN_GAIN = 1.05
"""How many times as fast bf16 must be to be chosen."""

_TIMED_IMAGES = 8
_TIMED_CALLS = 3


def measure_change(
    bf16: FusedPredictor, images: UInt8Array, labels: Int64Array, fused: FloatArray
) -> Bf16Change:
    """Compare a model in bf16 with what it says in float32.

    Args:
        bf16: the model.
        images: (N, 48, 48).
        labels: (N,)
        fused: (N, C) fused logits of the images in float32, before temperature.
    """
    found = bf16.predict(images)
    before = probabilities(fused, bf16.spec.temperature)
    return Bf16Change(
        top1_accuracy(found.logits.astype(np.float64), labels) - top1_accuracy(fused, labels),
        float(np.abs(found.probabilities - before).mean(axis=0).max()),
    )


def pick_predictor(bundle: Bundle, choice: str = "auto", device: str = "auto") -> FusedPredictor:
    """Load a fused model in the precision that is asked for.

    Args:
        bundle: the fused model.
        choice: `fp32`, `bf16`, or `auto`: bf16 where what it changes is allowed and it is faster.
        device: as `FusedPredictor` takes it.

    Raises:
        FusionError: the model has an unknown backbone or unknown test-time augmentation, or there
            is no such precision or device.
        WeightsError: a weights file is missing, damaged or of another network.
    """
    if choice not in get_args(PrecisionChoice):
        known = ", ".join(get_args(PrecisionChoice))
        raise FusionError(f"there is no precision '{choice}': choose one of {known}")
    if choice == "bf16":
        return FusedPredictor(bundle.spec, bundle.files, "bf16", device)
    exact = FusedPredictor(bundle.spec, bundle.files, "fp32", device)
    if choice == "fp32" or bundle.bf16 is None or not bundle.bf16.allowed:
        return exact
    fast = FusedPredictor(bundle.spec, bundle.files, "bf16", device)
    return fast if measure_gain(exact, fast) >= MIN_GAIN else exact


def measure_gain(exact: FusedPredictor, fast: FusedPredictor) -> float:
    """How many times as fast the second model is."""
    return _seconds(exact) / _seconds(fast)


def _seconds(predictor: FusedPredictor) -> float:
    """The shortest time for a few images."""
    images = np.zeros((_TIMED_IMAGES, 48, 48), np.uint8)
    return min(timeit.repeat(lambda: predictor.predict(images), number=1, repeat=_TIMED_CALLS))

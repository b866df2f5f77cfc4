"""The logits of every backbone, and how they were computed: `predictions/BACKBONE.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fer_pipeline.arrays import Float32Array, FloatArray
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.files import read_arrays, whole_file
from fer_pipeline.paths import predictions


@dataclass(frozen=True)
class PredictSettings:
    """How the logits of one backbone were computed.

    Attributes:
        tta: the test-time augmentation, a value of `predict.tta`.
        image_size: height and width of what the network sees, in pixels.
        eval_resize: height and width that an image is resized to before it is cropped, in pixels.
    """

    tta: str
    image_size: int
    eval_resize: int


def write_predictions(
    backbone: str, logits: Mapping[str, Float32Array], settings: PredictSettings
) -> None:
    """Write the (N, C) logits of `val` and `test` by one backbone."""
    arrays = {f"{split}_logits": own for split, own in logits.items()}
    with whole_file(predictions(backbone)) as partial:
        np.savez(partial, allow_pickle=False, **arrays, **asdict(settings))


def read_logits(
    backbones: list[str], split: Literal["val", "test"], images: int, folder: Path = Path()
) -> FloatArray:
    """(M, N, C) logits of one split of N images, in the order of the backbones.

    `folder` is the one with `predictions` in it.

    Raises:
        DataError: a file is missing, damaged, or of another split.
        FusionError: some logits are not finite.
    """
    stack: list[FloatArray] = []
    for name in backbones:
        (logits,) = _read(name, (f"{split}_logits",), folder)
        if logits.shape != (images, NUM_EMOTIONS):
            raise DataError(
                f"{folder / predictions(name)}: {split} logits have shape {logits.shape}, not "
                f"{(images, NUM_EMOTIONS)}: run 'dvc repro'"
            )
        wrong = int((~np.isfinite(logits)).any(axis=1).sum())
        if wrong:
            raise FusionError(
                f"{folder / predictions(name)}: the logits of {wrong} {split} images are not "
                f"finite: train it again, with 'dvc repro --force --single-item train@{name}'"
            )
        stack.append(logits.astype(np.float64))
    return np.stack(stack)  # (M, N, C)


def read_settings(backbones: list[str]) -> dict[str, PredictSettings]:
    """How the logits of each backbone were computed.

    Raises:
        DataError: a file is missing or damaged, or does not say it.
        FusionError: they were computed with different test-time augmentations.
    """
    found = {}
    for name in backbones:
        tta, image_size, eval_resize = _read(name, ("tta", "image_size", "eval_resize"))
        found[name] = PredictSettings(str(tta), int(image_size), int(eval_resize))
    if len({own.tta for own in found.values()}) > 1:
        differ = ", ".join(f"{name} with {own.tta!r}" for name, own in found.items())
        raise FusionError(
            f"the logits were not computed alike ({differ}): run 'dvc repro' to predict again"
        )
    return found


def _read(backbone: str, keys: tuple[str, ...], folder: Path = Path()) -> list[Any]:
    with read_arrays(folder / predictions(backbone), f"predict@{backbone}") as arrays:
        return [arrays[key] for key in keys]

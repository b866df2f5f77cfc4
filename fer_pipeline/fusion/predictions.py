"""Logits of every backbone, read back for fusion."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fer_pipeline.errors import DataError
from fer_pipeline.paths import predictions, require


def read_logits(
    backbones: list[str], split: Literal["val", "test"], folder: Path = Path()
) -> npt.NDArray[np.float64]:
    """(M, N, C) logits of one split, in the order of the backbones.

    `folder` is the one with `predictions` in it.

    Raises:
        DataError: a file is missing or damaged, or the files are of different splits.
    """
    stack = []
    for name in backbones:
        path = require(folder / predictions(name), f"predict@{name}")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                stack.append(arrays[f"{split}_logits"].astype(np.float64))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} holds no logits ({error}): run 'dvc repro --force predict@{name}'"
            ) from error
        if stack[-1].shape != stack[0].shape:
            raise DataError(
                f"{path}: logits have shape {stack[-1].shape}, those of {backbones[0]} "
                f"{stack[0].shape}: run 'dvc repro'"
            )
    return np.stack(stack)  # (M, N, C)

"""The fused model at work: faces in, logits and probabilities out. Knows no MLflow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.average import fuse, probabilities
from fer_pipeline.models.backbones import load_trained
from fer_pipeline.models.catalog import CATALOG
from fer_pipeline.models.inference import compute_logits, full_float32, pick_device
from fer_pipeline.models.transforms import VIEWS
from fer_pipeline.serving.bundle import Spec, read_spec, weights_file
from fer_pipeline.threads import VARIABLE, choose_threads

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """What a fused model says of N images.

    Attributes:
        logits: (N, 7) fused logits, before temperature.
        probabilities: (N, 7) calibrated probabilities, in the order of `EMOTIONS`.
        single_logits: (N, 7) logits of each backbone by itself, by its name.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    single_logits: dict[str, npt.NDArray[np.float32]]

    @property
    def single_probabilities(self) -> dict[str, npt.NDArray[np.float32]]:
        """(N, 7) probabilities of each backbone by itself, at temperature 1."""
        return {
            name: probabilities(logits, 1.0).astype(np.float32)
            for name, logits in self.single_logits.items()
        }


class FusedPredictor:
    """All backbones of a bundle, loaded and ready."""

    def __init__(self, spec: Spec, files: Mapping[str, Path]) -> None:
        """Load the networks.

        Args:
            spec: the fused model.
            files: the weights file of each of its backbones.

        Raises:
            FusionError: the model has an unknown backbone or unknown test-time augmentation.
            WeightsError: a weights file is missing, damaged or of another network.
        """
        unknown = [member.name for member in spec.members if member.name not in CATALOG]
        if unknown:
            raise FusionError(
                f"the fused model has the backbone {unknown[0]}, which this version does not know"
            )
        if spec.tta not in VIEWS:
            raise FusionError(
                f"the fused model takes the test-time augmentation '{spec.tta}', which this "
                "version does not know"
            )
        self._spec = spec
        self._device = pick_device()
        if VARIABLE not in os.environ and self._device.type == "cpu":
            torch.set_num_threads(choose_threads())
        self._models = [
            load_trained(member.name, files[member.name]).to(self._device)
            for member in spec.members
        ]

    @classmethod
    def load(cls, folder: Path) -> FusedPredictor:
        """Load a bundle that `write_bundle` made.

        Torch then computes with as many threads as cores are free, unless `OMP_NUM_THREADS` is set.

        Raises:
            FusionError: the folder is no bundle, or its backbones or its test-time augmentation
                are unknown.
            WeightsError: a weights file is missing, damaged or of another network.
        """
        spec = read_spec(folder)
        return cls(spec, {one.name: weights_file(folder, one.name) for one in spec.members})

    def predict(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Predict the emotions of (N, 48, 48) images; every network runs once."""
        stack = self._stack(images)
        # In double precision, as the weights were fitted and the model was evaluated.
        fused = fuse(stack.astype(np.float64), np.array([one.weight for one in self._spec.members]))
        singles = zip(self._spec.members, stack, strict=True)
        return Prediction(
            fused.astype(np.float32),
            probabilities(fused, self._spec.temperature).astype(np.float32),
            {member.name: logits for member, logits in singles},
        )

    def _stack(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(M, N, C) logits of every backbone."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        with full_float32():
            logits = [
                compute_logits(
                    model,
                    pixels,
                    member.image_size,
                    member.eval_resize,
                    BATCH_SIZE,
                    tta=self._spec.tta,
                )
                for member, model in zip(self._spec.members, self._models, strict=True)
            ]
        return torch.stack(logits).cpu().numpy()

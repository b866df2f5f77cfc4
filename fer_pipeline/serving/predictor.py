"""The fused model at work: faces in, logits and probabilities out. Knows no MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.torch_average import fuse_logits, probabilities
from fer_pipeline.models.backbones import load_trained
from fer_pipeline.models.catalog import CATALOG
from fer_pipeline.models.inference import compute_logits, pick_device
from fer_pipeline.models.precision import full_float32
from fer_pipeline.models.transforms import VIEWS
from fer_pipeline.serving.bundle import Member, read_spec, weights_file

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Tta

BATCH_SIZE = 32


class FusedPredictor:
    """All backbones of a bundle, loaded and ready."""

    def __init__(
        self,
        members: list[tuple[Member, nn.Module]],
        temperature: float,
        tta: Tta,
        device: torch.device,
    ) -> None:
        self._members = members
        self._temperature = temperature
        self._tta = tta
        self._device = device

    @classmethod
    def load(cls, folder: Path) -> FusedPredictor:
        """Load a bundle that `write_bundle` made.

        Raises:
            FusionError: the folder is no bundle, or its backbones or its test-time augmentation
                are unknown.
            WeightsError: a weights file is missing, damaged or of another network.
        """
        spec = read_spec(folder)
        unknown = [member.name for member in spec.members if member.name not in CATALOG]
        if unknown:
            raise FusionError(f"{folder} fuses {unknown[0]}, which this version does not know")
        if spec.tta not in VIEWS:
            raise FusionError(
                f"{folder} takes the test-time augmentation '{spec.tta}', which this version does "
                f"not know"
            )
        device = pick_device()
        members = [
            (member, load_trained(member.name, weights_file(folder, member.name)).to(device))
            for member in spec.members
        ]
        return cls(members, spec.temperature, spec.tta, device)

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, 7) fused logits, before temperature, of (N, 48, 48) images."""
        return np.asarray(self._fused(images).cpu().numpy())

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, 7) calibrated probabilities, in the order of `EMOTIONS`."""
        return np.asarray(probabilities(self._fused(images), self._temperature).cpu().numpy())

    def singles(
        self, images: npt.NDArray[np.uint8]
    ) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Each backbone by itself: (N, 7) logits and (N, 7) probabilities, at temperature 1."""
        return {
            member.name: (
                np.asarray(logits.cpu().numpy()),
                np.asarray(probabilities(logits, 1.0).cpu().numpy()),
            )
            for (member, _), logits in zip(self._members, self._stack(images), strict=True)
        }

    def _fused(self, images: npt.NDArray[np.uint8]) -> Tensor:
        weights = torch.tensor([member.weight for member, _ in self._members])
        return fuse_logits(self._stack(images), weights.to(self._device))

    def _stack(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """(M, N, C) logits of every backbone."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        with full_float32():
            return torch.stack(
                [
                    compute_logits(
                        model,
                        pixels,
                        member.image_size,
                        member.eval_resize,
                        BATCH_SIZE,
                        tta=self._tta,
                    )
                    for member, model in self._members
                ]
            )

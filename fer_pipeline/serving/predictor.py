"""The fused model at work: faces in, logits and probabilities out. Knows no MLflow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.average import fuse, probabilities
from fer_pipeline.models.backbones import load_trained
from fer_pipeline.models.catalog import CATALOG
from fer_pipeline.models.inference import compute_logits, full_float32, pick_device
from fer_pipeline.models.transforms import VIEWS
from fer_pipeline.serving.bundle import Member, Spec, open_bundle
from fer_pipeline.serving.engine import FastBackbone
from fer_pipeline.threads import VARIABLE, CoreWatch, choose_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

Precision = Literal["fp32", "bf16"]

BATCH_SIZE = 32

_PRIMITIVES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
"""The convolutions that oneDNN keeps compiled: those of a few networks for every size of a batch.

A server meets all sizes. With the 1,024 that are kept else, four sizes drive each other out, and
compiling those of a batch takes longer than to compute it.
"""


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
    """All backbones of a bundle, loaded and ready.

    Attributes:
        spec: the fused model.
        precision: `fp32` computes what the record is compared with, `bf16` nearly that, faster.
    """

    def __init__(
        self,
        spec: Spec,
        files: Mapping[str, Path],
        precision: Precision = "fp32",
        device: str = "auto",
    ) -> None:
        """Load the networks.

        Torch then computes with as many threads as cores are free, which is looked at again from
        time to time, unless `OMP_NUM_THREADS` is set.

        Args:
            spec: the fused model.
            files: the weights file of each of its backbones.
            precision: of weights and activations.
            device: `cpu`, `cuda`, or `auto`: the first GPU if there is one.

        Raises:
            FusionError: the model has an unknown backbone or unknown test-time augmentation, or
                there is no such device.
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
        self.spec, self.precision = spec, precision
        self._device = _device(device)
        os.environ.setdefault(*_PRIMITIVES)
        self._watch: CoreWatch | None = None
        if VARIABLE not in os.environ and self._device.type == "cpu":
            torch.set_num_threads(choose_threads())
            self._watch = CoreWatch()
        load = self._load_exact if precision == "fp32" else self._load_fast
        self._backbones = [load(member, files[member.name]) for member in spec.members]

    @classmethod
    def load(cls, folder: Path) -> FusedPredictor:
        """Load a bundle that `write_bundle` made, in float32.

        Raises:
            FusionError: the folder is no bundle, or its backbones or its test-time augmentation
                are unknown.
            WeightsError: a weights file is missing, damaged or of another network.
        """
        bundle = open_bundle(folder, str(folder))
        return cls(bundle.spec, bundle.files)

    def predict(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Predict the emotions of (N, 48, 48) images; every network runs once."""
        return self.conclude(self.compute(images))

    def compute(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, M, 7) logits of (N, 48, 48) images by every backbone, in the order of the spec."""
        if self._watch and (threads := self._watch.threads()):
            torch.set_num_threads(threads)
        # A copy: torch warns of arrays that it may not write to, such as those of decoded pictures.
        pixels = torch.tensor(np.ascontiguousarray(images)).to(self._device)
        with full_float32():
            logits = [compute(pixels) for compute in self._backbones]
        return torch.stack(logits, dim=1).cpu().numpy()

    def conclude(self, logits: npt.NDArray[np.float32]) -> Prediction:
        """What follows from (N, M, 7) logits of the backbones."""
        stack = np.ascontiguousarray(logits.swapaxes(0, 1))  # (M, N, 7)
        # In double precision, as the weights were fitted and the model was evaluated.
        fused = fuse(stack.astype(np.float64), np.array([one.weight for one in self.spec.members]))
        singles = zip(self.spec.members, stack, strict=True)
        return Prediction(
            fused.astype(np.float32),
            probabilities(fused, self.spec.temperature).astype(np.float32),
            {member.name: logits for member, logits in singles},
        )

    def _load_exact(self, member: Member, path: Path) -> Callable[[Tensor], Tensor]:
        model = load_trained(member.name, path).to(self._device)
        sizes, tta = (member.image_size, member.eval_resize), self.spec.tta
        return lambda pixels: compute_logits(model, pixels, *sizes, BATCH_SIZE, tta=tta)

    def _load_fast(self, member: Member, path: Path) -> Callable[[Tensor], Tensor]:
        model = load_trained(member.name, path).to(self._device)
        return FastBackbone(model, member.image_size, member.eval_resize, self.spec.tta).logits


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise FusionError(f"there is no device '{name}': choose one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise FusionError("torch finds no CUDA GPU here: choose cpu, or auto")
    return pick_device() if name == "auto" else torch.device(name)

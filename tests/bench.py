"""What tests of training share: tiny jobs, small real networks, and an observer that writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality.splits import SplitName
from fer_pipeline.params.schema import (
    AugmentParams,
    BackboneParams,
    HeadParams,
    Phase,
    PhaseParams,
    TrainingParams,
)
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.history import EpochRecord, Observer, Trained
from fer_pipeline.training.job import Images, Job, to_device

SIZE, RESIZE, FEATURES = 32, 36, 128
HEAD = HeadParams(epochs=1, batch_size=14, learning_rate=1e-3, cached_views=0)
PHASE = PhaseParams(epochs=1, batch_size=14, learning_rate=1e-3)
NOTHING = AugmentParams(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip=0.0,
    rotation=0.0,
    translation=0.0,
    brightness=0.0,
    erasing=0.0,
)
"""No augmentation, so that a training can be repeated by hand."""


def group_norm(channels: int) -> nn.Module:
    """Unlike batch norm it does not care how a batch is divided."""
    return nn.GroupNorm(8, channels)


def small_network(
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d, kind: type[ResNet] = ResNet
) -> ResNet:
    """torchvision's ResNet with two layers of one block; its head has ResNet-50's name."""
    torch.manual_seed(0)
    model = kind(BasicBlock, [1, 1, 1, 1], num_classes=7, norm_layer=norm)
    model.layer3, model.layer4 = nn.Sequential(), nn.Sequential()  # nine tenths of the weights
    model.fc = nn.Linear(FEATURES, 7)
    return model.to(memory_format=torch.channels_last)


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [key for key, value in wanted.items() if not torch.equal(found[key], value)] == []


class Notebook(Observer):
    """Writes down what a trainer reports, and the head's weights after each epoch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.notes: dict[str, str] = {}
        self.earlier: list[EpochRecord] = []
        self.started: list[tuple[Phase, int, int, int]] = []
        self.batches: list[list[int]] = []
        self.cached: list[list[int]] = []
        self._now: list[int] = []
        self.done: list[EpochRecord] = []
        self.heads: list[Tensor] = []

    def noted(self, name: str, value: str) -> None:
        self.notes[name] = value

    def resumed(self, history: Sequence[EpochRecord]) -> None:
        self.earlier = list(history)

    def caching_started(self, images: int) -> None:
        self._now = []
        self.cached.append(self._now)

    def epoch_started(self, phase: Phase, epoch: int, epochs: int, images: int) -> None:
        self.started.append((phase, epoch, epochs, images))
        self._now = []
        self.batches.append(self._now)

    def batch_done(self, images: int) -> None:
        self._now.append(images)

    def epoch_done(self, record: EpochRecord) -> None:
        self.done.append(record)
        self.heads.append(self.model.get_parameter("fc.weight").detach().clone())


class Bench:
    """The tiny splits, one process on a device, and the committed params of training."""

    def __init__(
        self,
        splits: dict[SplitName, Split],
        training: TrainingParams,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        self.fabric = Fabric(accelerator=device, devices=1)
        self.train = to_device(splits["train"], self.fabric.device)
        self.val = to_device(splits["val"], self.fabric.device)
        self.training = training

    def job(
        self,
        model: nn.Module,
        head: HeadParams | None = HEAD,
        finetune: PhaseParams = PHASE,
        *,
        seed: int = 0,
        val: Images | None = None,
        observer: Observer | None = None,
        **training: object,
    ) -> Job:
        """A job on this model, whose head is called as ResNet-50's; `training` changes params."""
        params = BackboneParams(
            weights="none",
            weights_sha256=None,
            image_size=SIZE,
            eval_resize=RESIZE,
            head=head,
            finetune=finetune,
        )
        return Job(
            self.fabric,
            model,
            "resnet50",
            params,
            self.training.model_copy(update=training),
            self.train,
            val or self.val,
            seed,
            observer or Observer(),
        )


def fit(job: Job, folder: Path | None = None, every_s: float = 0.0) -> Trained:
    """Train, with checkpoints in a folder, or in one that is deleted."""
    with tempfile.TemporaryDirectory() as deleted:
        return Trainer(job, Checkpoints(folder or Path(deleted) / "all", "key", every_s)).fit()

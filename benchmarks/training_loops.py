"""Training loops that the benchmark of training compares: a plain one, and the engine's.

The plain loop is written as people write it: a data set of single images, PIL transforms, a
DataLoader, fp32 and NCHW.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import split_faces
from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.schema import BackboneParams, TrainingParams
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.history import EpochRecord, Observer, Trained
from fer_pipeline.training.job import Job, to_device


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    """How long some work takes, until the device has done it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def median_gap(ends: Sequence[float]) -> float:
    """Seconds from one moment to the next: what came before the first only warms everything up."""
    return statistics.median(later - earlier for earlier, later in pairwise(ends))


class Faces(Dataset[tuple[Tensor, int]]):
    """One image after the other, as most projects read FER2013."""

    def __init__(self, split: Split, image_size: int, training: TrainingParams) -> None:
        self._split = split
        augment = training.augment
        self._transform = transforms.Compose(
            [
                transforms.Grayscale(3),
                transforms.RandomResizedCrop(image_size, augment.crop_scale, augment.crop_ratio),
                transforms.RandomHorizontalFlip(augment.flip),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self._split.images[row])
        return self._transform(image), int(self._split.labels[row])


def plain_images_per_s(
    device: torch.device,
    name: str,
    own: BackboneParams,
    training: TrainingParams,
    train: Split,
    steps: int,
) -> float:
    """Images per second of a plain loop: single images, PIL transforms, DataLoader, fp32, NCHW."""
    model = build_backbone(name, "none").to(memory_format=torch.contiguous_format)
    model = model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=own.finetune.learning_rate)
    loader = DataLoader(
        Faces(train, own.image_size, training),
        own.finetune.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2 if device.type == "cuda" else 0,
    )
    ends = []
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())
        ends.append(time.perf_counter())
        if len(ends) > steps:
            break
    return own.finetune.batch_size / median_gap(ends)


@dataclass
class Clock(Observer):
    """When each head epoch ended, what was measured, and what was decided."""

    head_ends: list[float] = field(default_factory=list)
    records: list[EpochRecord] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def noted(self, name: str, value: str) -> None:
        self.notes[name] = value

    def epoch_done(self, record: EpochRecord) -> None:
        self.records.append(record)
        if record.phase == "head":
            self.head_ends.append(time.perf_counter())


def sample(train: int, val: int) -> tuple[Split, Split]:
    faces = draw_sample(train, val, 7, seed=0)
    splits = split_faces(faces, group_by_pixels(faces), "official")
    return splits["train"], splits["val"]


def fit(
    fabric: Fabric,
    name: str,
    own: BackboneParams,
    training: TrainingParams,
    splits: tuple[Split, Split],
    clock: Clock,
    seed: int = 0,
) -> Trained:
    torch.manual_seed(seed)
    model = build_backbone(name, own.weights).to(fabric.device)
    train, val = (to_device(split, fabric.device) for split in splits)
    job = Job(fabric, model, name, own, training, train, val, seed, clock)
    with TemporaryDirectory() as folder:
        # As seldom as in a real training: its thread would take a share of these few steps.
        checkpoints = Checkpoints(Path(folder), "benchmark", training.checkpoint_every_s)
        return Trainer(job, checkpoints).fit()

"""Runs of the training engine on the built-in sample, and a clock that watches them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning_fabric import Fabric

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import split_faces
from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.schema import BackboneParams, TrainingParams
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.history import EpochRecord, Silent, Trained
from fer_pipeline.training.job import Job, to_device


@dataclass
class Clock(Silent):
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
        return Trainer(job, Checkpoints(Path(folder), "benchmark")).fit()

"""All that a training is about, gathered once."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from fer_pipeline.data.faces import Split
    from fer_pipeline.params.schema import BackboneParams, TrainingParams
    from fer_pipeline.training.history import Observer


@dataclass(frozen=True)
class Images:
    """A split held in the device's memory: (N, 48, 48) uint8 and (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def to_device(split: Split, device: torch.device) -> Images:
    """FER2013 takes 83 MB as uint8: it fits wherever a network trains."""
    return Images(
        torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)
    )


@dataclass(frozen=True)
class Job:
    """One backbone's training.

    Attributes:
        fabric: the devices.
        model: on its device.
        backbone: its name in the catalogue.
        params: what params say of the backbone.
        training: what they say of all trainings.
        train, val: the splits, on the device.
        seed: from `seed_of`; order, augmentation, mixup and dropout are drawn from it.
        observer: it is told what happens.
    """

    fabric: Fabric
    model: nn.Module
    backbone: str
    params: BackboneParams
    training: TrainingParams
    train: Images
    val: Images
    seed: int
    observer: Observer


@dataclass(frozen=True)
class Draws:
    """An epoch's random numbers, each kind from a generator of its own."""

    order: torch.Generator
    pictures: torch.Generator
    mixing: np.random.Generator


def seed_of(backbone: str, seed: int) -> int:
    """The seed of one backbone's initial weights and draws, from the experiment's.

    So each has batches and crops of its own: fusing averages away only what each has by chance.
    """
    own = np.random.SeedSequence([seed, zlib.crc32(backbone.encode())])
    return int(own.generate_state(1)[0])


def draws_of_epoch(seed: int, epoch: int, device: torch.device, rank: int = 0) -> Draws:
    """Seed everything that an epoch draws by the epoch's number, torch's own generator included.

    So an epoch draws the same whether or not those before it ran in the same process, and no
    generator's state has to be kept. Devices that share a batch draw it alike; torch's own
    generator, of dropout, is for each device's share alone, and differs by its rank.
    """
    order, pictures, mixing, dropout = np.random.SeedSequence([seed, epoch]).generate_state(4)
    if rank:
        (dropout,) = np.random.SeedSequence([seed, epoch, rank]).generate_state(1)
    torch.manual_seed(int(dropout))
    return Draws(
        torch.Generator().manual_seed(int(order)),
        torch.Generator(device).manual_seed(int(pictures)),
        np.random.default_rng(int(mixing)),
    )

"""A training loop as people write it, which the engine is compared with."""

from __future__ import annotations

import time

import torch
from PIL import Image
from timing import median_gap
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fer_pipeline.data.faces import Split
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.schema import BackboneParams, TrainingParams


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
    """Of fine-tuning with single images, PIL transforms, a DataLoader, fp32 and NCHW."""
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

"""Images per second of the training engine beside a plain loop as people write it, and the head
phase with cached views beside the one without.

    python benchmarks/training.py [RECIPE] [--steps N] [--head-epochs N]

    plain   a data set of single images, PIL transforms per sample, a DataLoader, fp32, NCHW
    engine  this project: uint8 on the device, one batched affine map, channels last, and the
            precision that it measures to be faster

For each backbone of RECIPE (default: recipes/paper.yaml) at its own size and batch, on the built-in
sample, from random weights. Prints a table, and as its last line one JSON object with
`speedup.BACKBONE`, `head_speedup` and `head_accuracy_gap` (in points of val accuracy).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality import group_by_pixels
from fer_pipeline.data.sample import draw_sample
from fer_pipeline.data.splits import split_faces
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params import BackboneParams, HeadParams, Params, TrainingParams, load_params
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.devices import choose_devices
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.job import Job, hold
from fer_pipeline.training.records import EpochRecord, Silent, Trained

ROOT = Path(__file__).resolve().parents[1]

HEAD_SIZE, HEAD_BATCH, HEAD_VIEWS = 40, 64, 2
"""Of the head phase's comparison: small, so that it ends; its ratio hardly depends on them."""

PAPER_HEAD_EPOCHS = 30


class Faces(Dataset[tuple[torch.Tensor, int]]):
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

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self._split.images[row])
        return self._transform(image), int(self._split.labels[row])


@dataclass
class Clock(Silent):
    """Seconds of each batch and images per second of each epoch, and what was decided."""

    batches: list[float]
    images_per_s: list[float]
    notes: dict[str, str]

    def noted(self, name: str, value: str) -> None:
        self.notes[name] = value

    def batch_done(self, images: int) -> None:
        self.batches.append(time.perf_counter())

    def epoch_done(self, record: EpochRecord) -> None:
        self.images_per_s.append(record.images_per_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", type=Path, default=ROOT / "recipes/paper.yaml")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each loop")
    parser.add_argument("--head-epochs", type=int, default=10, help="of the head's comparison")
    options = parser.parse_args()
    params = load_params(options.recipe)
    fabric = choose_devices(1, "auto")
    fabric.launch()
    table = Table("backbone", "size", "batch", "plain images/s", "engine images/s", "in", "ratio")
    speedup = {}
    for name, own in params.backbones.items():
        plain, engine, precision = compare(fabric, name, own, params, options.steps)
        speedup[name] = engine / plain
        figures = (f"{plain:.1f}", f"{engine:.1f}", precision, f"{speedup[name]:.2f}")
        table.add_row(name, str(own.image_size), str(own.finetune.batch_size), *figures)
    head_speedup, gap = compare_heads(fabric, params, options.head_epochs)
    Console().print(table)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"head phase, {PAPER_HEAD_EPOCHS} epochs, {HEAD_VIEWS} cached views: {head_speedup:.1f} x"
    )
    print(f"val accuracy without less with cached views: {gap:+.2f} points; peak {peak_mb:,.0f} MB")
    print(
        json.dumps(
            {
                "speedup": speedup,
                "head_speedup": head_speedup,
                "head_accuracy_gap": gap,
                "peak_memory_mb": peak_mb,
            }
        )
    )


def sample(train: int, val: int) -> tuple[Split, Split]:
    faces = draw_sample(train, val, 7, seed=0)
    splits = split_faces(faces, group_by_pixels(faces), "official")
    return splits["train"], splits["val"]


def compare(
    fabric: Fabric, name: str, own: BackboneParams, params: Params, steps: int
) -> tuple[float, float, str]:
    """Images per second of the plain loop and of the engine, and the engine's precision."""
    size = own.finetune.batch_size
    train, val = sample((steps + 1) * size, 7)
    plain = time_plain(fabric.device, name, own, params.training, train, steps)
    phase = own.finetune.model_copy(update={"epochs": 1})
    own = own.model_copy(update={"head": None, "finetune": phase, "weights": "none"})
    training = params.training.model_copy(update={"precision": "auto"})
    clock = Clock([], [], {})
    fit(fabric, name, own, training, (train, val), clock)
    engine = size / statistics.median(_gaps(clock.batches))
    return plain, engine, clock.notes["precision"]


def time_plain(
    device: torch.device,
    name: str,
    own: BackboneParams,
    training: TrainingParams,
    train: Split,
    steps: int,
) -> float:
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
        loss = torch.nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())
        ends.append(time.perf_counter())
        if len(ends) > steps:
            break
    return own.finetune.batch_size / statistics.median(_gaps(ends))


def compare_heads(fabric: Fabric, params: Params, epochs: int) -> tuple[float, float]:
    """How many times faster 30 epochs of the head are with cached views, and the accuracy gap."""
    train, val = sample(700, 350)
    accuracies, seconds = {}, {}
    for views in (0, HEAD_VIEWS):
        head = HeadParams(
            epochs=epochs, batch_size=HEAD_BATCH, learning_rate=1e-3, cached_views=views
        )
        shortest = params.backbones["resnet50"].finetune.model_copy(
            update={"epochs": 1, "batch_size": HEAD_BATCH}
        )
        own = params.backbones["resnet50"].model_copy(
            update={
                "weights": "none",
                "image_size": HEAD_SIZE,
                "eval_resize": HEAD_SIZE,
                "head": head,
                "finetune": shortest,
            }
        )
        clock = Clock([], [], {})
        started = time.perf_counter()
        trained = fit(fabric, "resnet50", own, params.training, (train, val), clock)
        spent = time.perf_counter() - started
        tuned_s = len(train) / clock.images_per_s[-1]
        epoch_s = statistics.median(len(train) / speed for speed in clock.images_per_s[:-1])
        # What came before the first epoch is the caching; more epochs add their own time alone.
        seconds[views] = spent - tuned_s + (PAPER_HEAD_EPOCHS - epochs) * epoch_s
        accuracies[views] = max(
            record.val_accuracy for record in trained.history if record.phase == "head"
        )
    gap = 100 * (accuracies[0] - accuracies[HEAD_VIEWS])
    return seconds[0] / seconds[HEAD_VIEWS], gap


def fit(
    fabric: Fabric,
    name: str,
    own: BackboneParams,
    training: TrainingParams,
    splits: tuple[Split, Split],
    clock: Clock,
) -> Trained:
    torch.manual_seed(0)
    model = build_backbone(name, "none").to(fabric.device)
    train, val = (hold(split, fabric.device) for split in splits)
    job = Job(fabric, model, name, own, training, train, val, 0, clock)
    with TemporaryDirectory() as folder:
        return Trainer(job, Checkpoints(Path(folder), "benchmark")).fit()


def _gaps(ends: list[float]) -> list[float]:
    """Seconds between batches: the first, which warms everything up, only starts the clock."""
    return [later - earlier for earlier, later in pairwise(ends)]


if __name__ == "__main__":
    main()

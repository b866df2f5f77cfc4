"""Images per second of the training engine beside a plain loop as people write it, and the head
phase with cached views beside the one without.

    python benchmarks/training.py [RECIPE ...] [--steps N] [--head-epochs N]

    plain   a data set of single images, PIL transforms per sample, a DataLoader, fp32, NCHW
    engine  this project: uint8 on the device, one batched affine map, channels last, and the
            precision that it measures to be faster

For each backbone of each RECIPE (default: recipes/paper.yaml) at its own size and batch, on the
built-in sample, from random weights. `in use` is the arithmetic of a step (two operations per
multiplication and addition) against what a large matrix product reaches on this device in the same
precision; `augment` is the augmentation's share of the engine's step.

The heads are trained on a ResNet-50 that has learnt the sample for some epochs. Prints tables, and
as its last line one JSON object with `speedup.BACKBONE`, `head_speedup` and `head_accuracy_gap` (in
points of val accuracy) of the first RECIPE, and all figures of all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality import group_by_pixels
from fer_pipeline.data.sample import draw_sample
from fer_pipeline.data.splits import split_faces
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params import BackboneParams, HeadParams, Params, TrainingParams, load_params
from fer_pipeline.training.augment import augment_batch
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.devices import choose_devices
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.job import Job, draws_of_epoch, hold
from fer_pipeline.training.records import EpochRecord, Silent, Trained

ROOT = Path(__file__).resolve().parents[1]

HEAD_SIZE, HEAD_BATCH, HEAD_VIEWS = 40, 64, 2
"""Of the head phase's comparison: small, so that it ends; its ratio hardly depends on them."""

HEAD_IMAGES = (1400, 2800)
"""In train and val: with so many in val, half a point of accuracy is 14 images."""

HEAD_SEEDS = range(3)
"""Each head is trained so often: one training alone differs from the next by half a point."""

LEARNT_EPOCHS = 6
"""Of the network whose heads are compared."""

PAPER_HEAD_EPOCHS = 30

MATRIX_ROWS = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices whose product shows what the device can do."""


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


@dataclass(frozen=True)
class Figures:
    """One backbone's; `utilisation` and `augmentation` are fractions."""

    image_size: int
    batch_size: int
    plain_images_per_s: float
    engine_images_per_s: float
    precision: str
    utilisation: float
    augmentation: float

    @property
    def speedup(self) -> float:
        return self.engine_images_per_s / self.plain_images_per_s


@dataclass(frozen=True)
class Heads:
    """A fresh crop each epoch, and cached views."""

    speedup: float
    fresh_accuracy: float
    cached_accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", type=Path, default=[ROOT / "recipes/paper.yaml"])
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each loop")
    parser.add_argument("--head-epochs", type=int, default=10, help="of the head's comparison")
    options = parser.parse_args()
    fabric = choose_devices(1, "auto")
    fabric.launch()
    ceilings = {name: matrix_flops(fabric.device, name) for name in ("fp32", "bf16")}
    figures = {
        path.stem: compare_backbones(fabric, path, options.steps, ceilings)
        for path in options.recipes
    }
    heads = compare_heads(fabric, load_params(options.recipes[0]), options.head_epochs)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    said = ", ".join(f"{value / 1e12:.2f} TFLOP/s in {name}" for name, value in ceilings.items())
    print(f"matrix product on {fabric.device.type}: {said}")
    print(
        f"head phase, {PAPER_HEAD_EPOCHS} epochs: {heads.speedup:.1f} x faster with {HEAD_VIEWS} "
        f"cached views; val accuracy {heads.fresh_accuracy:.2%} without, "
        f"{heads.cached_accuracy:.2%} with them"
    )
    print(f"peak memory {peak_mb:,.0f} MB")
    first = figures[options.recipes[0].stem]
    print(
        json.dumps(
            {
                "speedup": {name: own.speedup for name, own in first.items()},
                "head_speedup": heads.speedup,
                "head_accuracy_gap": 100 * (heads.fresh_accuracy - heads.cached_accuracy),
                "peak_memory_mb": peak_mb,
                "recipes": {
                    recipe: {name: asdict(own) for name, own in of_recipe.items()}
                    for recipe, of_recipe in figures.items()
                },
            }
        )
    )


def compare_backbones(
    fabric: Fabric, recipe: Path, steps: int, ceilings: dict[str, float]
) -> dict[str, Figures]:
    params = load_params(recipe)
    columns = ("size", "batch", "plain", "engine", "in", "ratio", "in use", "augment")
    table = Table("backbone", *columns, title=f"{recipe.name}: images/s")
    figures = {}
    for name, own in params.backbones.items():
        one = figures[name] = compare(fabric, name, own, params, steps, ceilings)
        speeds = (f"{one.plain_images_per_s:.1f}", f"{one.engine_images_per_s:.1f}", one.precision)
        shares = (f"{one.utilisation:.0%}", f"{one.augmentation:.1%}")
        sizes = (str(one.image_size), str(one.batch_size))
        table.add_row(name, *sizes, *speeds, f"{one.speedup:.2f}", *shares)
    Console().print(table)
    return figures


def sample(train: int, val: int) -> tuple[Split, Split]:
    faces = draw_sample(train, val, 7, seed=0)
    splits = split_faces(faces, group_by_pixels(faces), "official")
    return splits["train"], splits["val"]


def compare(
    fabric: Fabric,
    name: str,
    own: BackboneParams,
    params: Params,
    steps: int,
    ceilings: dict[str, float],
) -> Figures:
    """The plain loop and the engine: of each, the steps after those that warm it up."""
    size = own.finetune.batch_size
    train, val = sample((steps + 1) * size, 7)
    plain = time_plain(fabric.device, name, own, params.training, train, steps)
    phase = own.finetune.model_copy(update={"epochs": 2})
    own = own.model_copy(update={"head": None, "finetune": phase, "weights": "none"})
    training = params.training.model_copy(update={"precision": "auto", "warmup_epochs": 0})
    clock = Clock()
    fit(fabric, name, own, training, (train, val), clock)
    engine = clock.records[-1].images_per_s
    precision = clock.notes["precision"]
    return Figures(
        own.image_size,
        size,
        plain,
        engine,
        precision,
        engine * training_flops(name, own.image_size) / ceilings[precision],
        engine * augmentation_seconds(train, own, training, fabric.device) / size,
    )


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
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())
        ends.append(time.perf_counter())
        if len(ends) > steps:
            break
    return own.finetune.batch_size / statistics.median(_gaps(ends))


def training_flops(name: str, image_size: int) -> float:
    """Floating-point operations of one image's forward and backward pass."""
    model = build_backbone(name, "none").train()
    images = torch.zeros(2, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops() / len(images))


def matrix_flops(device: torch.device, precision: str) -> float:
    """Operations per second of the product of two large matrices, at its best."""
    rows = MATRIX_ROWS[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.rand(rows, rows, device=device, dtype=kind) for _ in range(2))
    seconds = [_seconds(device, lambda: one @ other) for _ in range(8)]
    return float(2 * rows**3 / min(seconds))


def augmentation_seconds(
    train: Split, own: BackboneParams, training: TrainingParams, device: torch.device
) -> float:
    """Of one batch."""
    pixels = hold(train, device).pixels[: own.finetune.batch_size]
    draws = draws_of_epoch(0, 1, device).pictures
    return statistics.median(
        _seconds(device, lambda: augment_batch(pixels, own.image_size, training.augment, draws))
        for _ in range(5)
    )


def compare_heads(fabric: Fabric, params: Params, epochs: int) -> Heads:
    """The head phase both ways, on what a network has learnt before."""
    splits = sample(*HEAD_IMAGES)
    phase = params.backbones["resnet50"].finetune.model_copy(
        update={"epochs": LEARNT_EPOCHS, "batch_size": HEAD_BATCH, "learning_rate": 1e-3}
    )
    sizes = {"image_size": HEAD_SIZE, "eval_resize": HEAD_SIZE}
    own = params.backbones["resnet50"].model_copy(
        update={"weights": "none", "head": None, "finetune": phase, **sizes}
    )
    training = params.training.model_copy(update={"precision": "fp32", "warmup_epochs": 0})
    learnt = fit(fabric, "resnet50", own, training, splits, Clock())
    with TemporaryDirectory() as folder:
        weights = Path(folder, "learnt.safetensors")
        save_file(learnt.state, weights)
        own = own.model_copy(update={"weights": str(weights)})
        trained = {
            views: [train_head(fabric, own, training, splits, epochs, views, n) for n in HEAD_SEEDS]
            for views in (0, HEAD_VIEWS)
        }
    (fresh_s, fresh), (cached_s, cached) = (
        (statistics.median(seconds), statistics.mean(accuracies))
        for seconds, accuracies in (zip(*runs, strict=True) for runs in trained.values())
    )
    return Heads(fresh_s / cached_s, fresh, cached)


def train_head(
    fabric: Fabric,
    own: BackboneParams,
    training: TrainingParams,
    splits: tuple[Split, Split],
    epochs: int,
    views: int,
    seed: int,
) -> tuple[float, float]:
    """Seconds that the paper's 30 epochs of the head take, and its best val accuracy."""
    head = HeadParams(epochs=epochs, batch_size=HEAD_BATCH, learning_rate=1e-3, cached_views=views)
    shortest = own.finetune.model_copy(update={"epochs": 1})
    clock = Clock()
    started = time.perf_counter()
    fit(
        fabric,
        "resnet50",
        own.model_copy(update={"head": head, "finetune": shortest}),
        training,
        splits,
        clock,
        seed,
    )
    # What came before the first epoch is the caching; more epochs add their own time alone.
    epoch_s = statistics.median(_gaps(clock.head_ends))
    spent = clock.head_ends[-1] - started + (PAPER_HEAD_EPOCHS - epochs) * epoch_s
    return spent, max(one.val_accuracy for one in clock.records if one.phase == "head")


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
    train, val = (hold(split, fabric.device) for split in splits)
    job = Job(fabric, model, name, own, training, train, val, seed, clock)
    with TemporaryDirectory() as folder:
        return Trainer(job, Checkpoints(Path(folder), "benchmark")).fit()


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _gaps(ends: list[float]) -> list[float]:
    """Seconds between moments: what came before the first only warms everything up."""
    return [later - earlier for earlier, later in pairwise(ends)]


if __name__ == "__main__":
    main()

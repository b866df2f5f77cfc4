"""Images per second of the training engine beside a plain loop as people write it, and the head
phase with cached views beside the one without.

    python benchmarks/training.py [RECIPE ...] [--steps N] [--head-epochs N]

    plain   a data set of single images, PIL transforms per sample, a DataLoader, fp32, NCHW
    engine  this project: uint8 on the device, one batched affine map, channels last, and the
            precision that it measures to be faster

For each backbone of each RECIPE (default: recipes/paper.yaml and cpu.yaml) at its own size and
batch, on the built-in sample, from random weights. `in use` is the arithmetic of a step (two
operations per multiplication and addition) against what a large matrix product reaches on this
device in the same precision; `augment` is the augmentation's share of the engine's step.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from training_loops import Clock, fit, median_gap, plain_images_per_s, sample, seconds_of

from fer_pipeline.data.faces import Split
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import BackboneParams, HeadParams, Params, TrainingParams
from fer_pipeline.training.augment import augment_batch, draw_augmentation
from fer_pipeline.training.devices import choose_devices
from fer_pipeline.training.job import draws_of_epoch, to_device

ROOT = Path(__file__).resolve().parents[1]

MATRIX_ROWS = {"cpu": 2048, "cuda": 8192}
"""Rows of the square matrices whose product shows what the device can do."""

HEAD_SIZE, HEAD_BATCH, HEAD_VIEWS = 40, 64, 2
"""The input of the heads' comparison: small, so that it ends; its ratio hardly depends on it."""

HEAD_IMAGES = (1400, 2800)
"""The images in train and val: with so many in val, half a point of accuracy is 14 images."""

HEAD_SEEDS = range(3)
"""Each head is trained so often: one training alone differs from the next by half a point."""

LEARNT_EPOCHS = 6
"""The epochs after which the heads of a network are compared."""

PAPER_HEAD_EPOCHS = 30


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
    recipes = [ROOT / "recipes" / name for name in ("paper.yaml", "cpu.yaml")]
    parser.add_argument("recipes", nargs="*", type=Path, default=recipes, metavar="RECIPE")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each loop")
    parser.add_argument("--head-epochs", type=int, default=10, help="of the head's comparison")
    options = parser.parse_args()
    fabric = choose_devices(1, {})
    fabric.launch()
    ceilings = {name: matrix_flops(fabric.device, name) for name in ("fp32", "bf16")}
    figures = {
        path.stem: compare_backbones(fabric, path, options.steps, ceilings)
        for path in options.recipes
    }
    heads = compare_heads(fabric, load_params(options.recipes[0]), options.head_epochs)
    peak_mb = peak_memory_mb(fabric.device)
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
    plain = plain_images_per_s(fabric.device, name, own, params.training, train, steps)
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


def peak_memory_mb(device: torch.device) -> float:
    """The device's, or on a CPU this process's: megabytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / 1e6


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
    seconds = [seconds_of(device, lambda: one @ other) for _ in range(8)]
    return float(2 * rows**3 / min(seconds))


def augmentation_seconds(
    train: Split, own: BackboneParams, training: TrainingParams, device: torch.device
) -> float:
    """The seconds that one batch is augmented in."""
    pixels = to_device(train, device).pixels[: own.finetune.batch_size]
    draws = draw_augmentation(len(pixels), draws_of_epoch(0, 1, device).pictures)
    return statistics.median(
        seconds_of(device, lambda: augment_batch(pixels, own.image_size, training.augment, draws))
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
    epoch_s = median_gap(clock.head_ends)
    spent = clock.head_ends[-1] - started + (PAPER_HEAD_EPOCHS - epochs) * epoch_s
    return spent, max(one.val_accuracy for one in clock.records if one.phase == "head")


if __name__ == "__main__":
    main()

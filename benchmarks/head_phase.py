"""The head phase with cached views beside the one with a fresh crop each epoch."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from engine_runs import Clock, fit, sample
from lightning_fabric import Fabric
from safetensors.torch import save_file
from timing import median_gap

from fer_pipeline.data.faces import Split
from fer_pipeline.params.schema import BackboneParams, HeadParams, Params, TrainingParams

HEAD_SIZE, HEAD_BATCH, HEAD_VIEWS = 40, 64, 2
"""Of the head phase's comparison: small, so that it ends; its ratio hardly depends on them."""

HEAD_IMAGES = (1400, 2800)
"""In train and val: with so many in val, half a point of accuracy is 14 images."""

HEAD_SEEDS = range(3)
"""Each head is trained so often: one training alone differs from the next by half a point."""

LEARNT_EPOCHS = 6
"""Of the network whose heads are compared."""

PAPER_HEAD_EPOCHS = 30


@dataclass(frozen=True)
class Heads:
    """A fresh crop each epoch, and cached views."""

    speedup: float
    fresh_accuracy: float
    cached_accuracy: float


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

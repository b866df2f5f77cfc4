"""Stage `train@BACKBONE`: one backbone through both phases, its best weights and its curve."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from fer_pipeline.data.faces import load_split
from fer_pipeline.layout import (
    TRAIN,
    VAL,
    model_file,
    training_curve,
    training_metrics,
)
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.models.inference import pick_device
from fer_pipeline.registry.lineage import content_digest
from fer_pipeline.registry.tracking import RunLog, connect, open_run
from fer_pipeline.stages.launch import run_backbone_stage
from fer_pipeline.stages.progress import TrainingProgress
from fer_pipeline.training.fit import Trainer, hold
from fer_pipeline.training.records import EpochRecord, Trained
from fer_pipeline.writing import whole_file, write_csv, write_json

if TYPE_CHECKING:
    from fer_pipeline.params import Params

log = logging.getLogger(__name__)


def train(params: Params, backbone: str) -> None:
    """Train, then write the weights, `metrics/train/BACKBONE.json` and the curve."""
    train_split, val_split = load_split(TRAIN), load_split(VAL)
    tracking = connect(params.registry.experiment)
    torch.manual_seed(params.seed)  # initial weights and dropout
    model = build_backbone(backbone, params.backbones[backbone].weights)
    device = pick_device()
    inputs = _inputs(params, backbone)
    tags = {"fer.stage": "train", "fer.backbone": backbone}
    with open_run(tracking, backbone, inputs, tags) as run:
        run.params(flatten(inputs))
        log.info("%s on %s, %d images", backbone, device, len(train_split))
        with TrainingProgress(backbone, lambda record: _log_epoch(run, record)) as progress:
            trained = Trainer(
                model.to(device),
                backbone,
                params.backbones[backbone],
                params.training,
                hold(train_split, device),
                hold(val_split, device),
                params.seed,
                progress,
            ).fit()
        _write(trained, backbone)
        run.metrics({"best_val_accuracy": trained.best.val_accuracy}, trained.best.epoch)


def flatten(content: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested params as `a.b.c`, the way MLflow and DVC show them."""
    flat: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _inputs(params: Params, backbone: str) -> dict[str, object]:
    """Everything that decides the weights."""
    return {
        "seed": params.seed,
        "data": {
            "train": content_digest([TRAIN]),
            "val": content_digest([VAL]),
        },
        "backbone": backbone,
        **params.backbones[backbone].model_dump(),
        "training": params.training.model_dump(),
    }


def _log_epoch(run: RunLog, record: EpochRecord) -> None:
    values = asdict(record)
    del values["phase"]
    run.metrics({key: float(value) for key, value in values.items()}, record.epoch)


def _write(trained: Trained, backbone: str) -> None:
    """Speed is left out of the outs: the same inputs shall give the same bytes."""
    with whole_file(model_file(backbone)) as partial:
        save_file(trained.state, partial)
    best = trained.best
    write_json(
        training_metrics(backbone),
        {
            "val_accuracy": best.val_accuracy,
            "val_loss": best.val_loss,
            "train_loss": best.train_loss,
            "best_epoch": best.epoch,
            "epochs": len(trained.history),
        },
    )
    _write_curve(trained.history, training_curve(backbone))


def _write_curve(history: Sequence[EpochRecord], path: Path) -> None:
    rows = [asdict(record) for record in history]
    for row in rows:
        del row["images_per_s"]
    write_csv(path, rows)


if __name__ == "__main__":
    sys.exit(run_backbone_stage(train, "Train one backbone: its head, then all of it."))

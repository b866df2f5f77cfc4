"""Stage `predict@BACKBONE`: logits of val and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fer_pipeline.data.faces import load_split
from fer_pipeline.fusion.predictions import PredictSettings, write_predictions
from fer_pipeline.models.backbones import load_trained
from fer_pipeline.models.inference import compute_logits, full_float32, pick_device
from fer_pipeline.paths import TEST, VAL, model_file, require
from fer_pipeline.stages.progress import image_bar

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params


def predict(params: Params, backbone: str) -> None:
    """Write `predictions/BACKBONE.npz`: the logits of val and test, and how they were computed."""
    splits = {"val": load_split(VAL), "test": load_split(TEST)}
    device = pick_device()
    weights = require(model_file(backbone), f"train@{backbone}")
    model = load_trained(backbone, weights).to(device)
    own = params.backbones[backbone]
    logits = {}
    total = sum(map(len, splits.values()))
    with full_float32(), image_bar(f"{backbone} predict", total) as advance:
        for name, split in splits.items():
            logits[name] = (
                compute_logits(
                    model,
                    torch.from_numpy(split.images).to(device),
                    own.image_size,
                    own.eval_resize,
                    params.predict.batch_size,
                    advance,
                    tta=params.predict.tta,
                )
                .cpu()
                .numpy()
            )
    settings = PredictSettings(params.predict.tta, own.image_size, own.eval_resize)
    write_predictions(backbone, logits, settings)

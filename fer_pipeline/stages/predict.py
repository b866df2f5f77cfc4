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
    own, tta, batch_size = params.backbones[backbone], params.predict.tta, params.predict.batch_size
    sizes = own.image_size, own.eval_resize
    logits = {}
    total = sum(map(len, splits.values()))
    with full_float32(), image_bar(f"{backbone} predict", total) as advance:
        for name, split in splits.items():
            pixels = torch.from_numpy(split.images).to(device)
            found = compute_logits(model, pixels, *sizes, batch_size, advance, tta=tta)
            logits[name] = found.cpu().numpy()
    write_predictions(backbone, logits, PredictSettings(tta, *sizes))

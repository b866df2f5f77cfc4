"""Stage `predict@BACKBONE`: logits of val and test."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch

from fer_pipeline.data.faces import load_split
from fer_pipeline.layout import TEST, VAL, model_file, predictions, require
from fer_pipeline.models.backbones import load_trained
from fer_pipeline.models.exact import full_float32
from fer_pipeline.models.inference import compute_logits, pick_device
from fer_pipeline.stages.launch import run_backbone_stage
from fer_pipeline.stages.progress import image_bar
from fer_pipeline.writing import whole_file

if TYPE_CHECKING:
    from fer_pipeline.params import Params


def predict(params: Params, backbone: str) -> None:
    """Write `predictions/BACKBONE.npz`: `val_logits` and `test_logits`, float32 (N, 7)."""
    splits = {"val": load_split(VAL), "test": load_split(TEST)}
    device = pick_device()
    weights = require(model_file(backbone), f"train@{backbone}")
    model = load_trained(backbone, weights).to(device)
    own = params.backbones[backbone]
    logits = {}
    total = sum(map(len, splits.values()))
    with full_float32(), image_bar(f"{backbone} predict", total) as advance:
        for name, split in splits.items():
            logits[f"{name}_logits"] = (
                compute_logits(
                    model,
                    torch.from_numpy(split.images).to(device),
                    own.image_size,
                    own.eval_resize,
                    params.predict.batch_size,
                    advance,
                    views=params.predict.views,
                )
                .cpu()
                .numpy()
            )
    with whole_file(predictions(backbone)) as partial:
        np.savez(partial, allow_pickle=False, **logits)


if __name__ == "__main__":
    sys.exit(run_backbone_stage(predict, "Compute one backbone's logits of val and test."))

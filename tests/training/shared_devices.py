"""Trainings on several CPU processes, one after another.

`python shared_devices.py FOLDER DEVICES KIND...`: with several devices this process starts the
others, each of which runs this file again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from bench import HEAD, PHASE, Bench, Notebook, fit, group_norm, small_network
from lightning_fabric import Fabric
from processes import FOREVER_S
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import split_faces
from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.errors import SharedTrainingError
from fer_pipeline.params.load import load_params
from fer_pipeline.stages.__main__ import end_with_parent
from fer_pipeline.training.devices import choose_devices
from fer_pipeline.training.job import Job

ROOT = Path(__file__).resolve().parents[2]
RANK = [0]


class Poisoned(ResNet):
    """Gives no numbers, in the second process alone."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits * float("nan") if RANK[0] == 1 and self.training else logits


NETWORKS = {"cached": ResNet, "normed": ResNet, "poisoned": Poisoned}


def make_job(kind: str, fabric: Fabric) -> Job:
    faces = draw_sample(28, 13, 14, seed=3)  # 13 val images are no equal shares
    bench = Bench(
        split_faces(faces, group_by_pixels(faces), "official"),
        load_params(ROOT / "params.yaml").training,
    )
    bench.fabric = fabric
    norm = nn.BatchNorm2d if kind == "normed" else group_norm
    model = small_network(norm, NETWORKS[kind]).to(fabric.device)
    views = 2 if kind == "cached" else 0
    head = HEAD.model_copy(update={"epochs": 2, "learning_rate": 0.1, "cached_views": views})
    finetune = PHASE.model_copy(update={"epochs": 3, "learning_rate": 0.01})
    if kind == "poisoned":
        head, finetune = None, PHASE.model_copy(update={"batch_size": 28})
    elif kind == "normed":  # the head phase leaves batch norms alone
        head = None
    everything: dict[str, object] = {
        "optimizer": "sgd",
        "schedule": "cosine",
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "mixup": 0.2,
        "precision": "auto" if kind == "poisoned" else "fp32",
    }
    return bench.job(model, head, finetune, observer=Notebook(model), **everything)


def abandon(fabric: Fabric, pid_file: Path) -> int:
    """The first process ends, while the other would wait for it."""
    if not fabric.is_global_zero:
        pid_file.write_text(str(os.getpid()))
        time.sleep(FOREVER_S)
    while not pid_file.exists():
        time.sleep(0.05)
    return 1


def train(kind: str, folder: Path, fabric: Fabric) -> None:
    """Write what came of it, or in each process why nothing did."""
    out = folder / f"{kind}-{fabric.world_size}.json"
    job = make_job(kind, fabric)
    try:
        trained = fit(job, folder / "checkpoints" / out.stem)
    except SharedTrainingError as error:
        out.with_suffix(f".{fabric.global_rank}").write_text(str(error))
        return
    if fabric.is_global_zero:
        torch.save(trained.state, out.with_suffix(".pt"))
        history = [asdict(record) for record in trained.history]
        notes = job.observer.notes  # type: ignore[attr-defined]
        out.write_text(json.dumps({"history": history, "notes": notes}))


def main(folder: Path, devices: int, *kinds: str) -> int:
    fabric = choose_devices(devices, {})
    fabric.launch()
    RANK[0] = fabric.global_rank
    for kind in kinds:
        if kind == "abandoned":
            return abandon(fabric, folder / "abandoned.pid")
        train(kind, folder, fabric)
        fabric.barrier()  # whoever ends first would have the other killed
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))

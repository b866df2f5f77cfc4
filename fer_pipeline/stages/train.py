"""Stage `train@BACKBONE`: one backbone through both phases, its best weights and its curve."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from fer_pipeline import paths
from fer_pipeline.choices import Choices
from fer_pipeline.data.faces import load_split
from fer_pipeline.errors import SharedTrainingError
from fer_pipeline.files import whole_file, write_csv, write_json
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.models.catalog import require_weights
from fer_pipeline.provenance import StageInputs, git_state
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import Tracking, connect
from fer_pipeline.stages.copies import open_copies
from fer_pipeline.stages.progress import Bar, TrainingProgress
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.devices import choose_devices, describe_hardware
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.history import Observer, Trained
from fer_pipeline.training.job import Job, seed_of, to_device
from fer_pipeline.training.memory import explain_device_errors

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def train(params: Params, backbone: str) -> None:
    """Train, then write the weights, `metrics/train/BACKBONE.json` and the curve."""
    own, shared = params.backbones[backbone], params.training
    # What can be wrong is found before other processes are started.
    require_weights(backbone, own)
    batch_sizes = {
        f"backbones.{backbone}.{name}.batch_size": phase.batch_size
        for name, phase in own.phases.items()
    }
    fabric = choose_devices(shared.devices, batch_sizes)
    splits = load_split(paths.TRAIN), load_split(paths.VAL)
    inputs = StageInputs.read("train", backbone, params)
    tracking = connect(params.registry.experiment)
    choices, hardware = Choices(inputs.key), describe_hardware(fabric.device, fabric.world_size)
    known = choices.recall("precision", hardware) if shared.precision == "auto" else None
    if known:
        shared = shared.model_copy(update={"precision": known})
    seed = seed_of(backbone, params.seed)
    torch.manual_seed(seed)  # initial weights
    model = build_backbone(backbone, own.weights, shared.dropout)
    copies = open_copies(f"{backbone}/{inputs.key}")
    fabric.launch()
    if not fabric.is_global_zero:
        logging.getLogger("fer_pipeline").setLevel(logging.ERROR)  # the first process speaks
        copies = None
    folder = paths.CHECKPOINTS / backbone
    checkpoints = Checkpoints(folder, inputs.key, shared.checkpoint_every_s, copies)
    with _observer(fabric, tracking, backbone, inputs) as (observer, run_id):
        with explain_device_errors(backbone, "the device is full before training begins: free it"):
            model = model.to(fabric.device)
            train_images, val_images = (to_device(split, fabric.device) for split in splits)
        log.info("%s on %d x %s", backbone, fabric.world_size, fabric.device.type)
        if known:
            observer.noted("precision", known)
        job = Job(fabric, model, backbone, own, shared, train_images, val_images, seed, observer)
        trained = _fit(job, checkpoints)
        if trained and fabric.is_global_zero:
            if params.training.precision == "auto":
                choices.remember("precision", hardware, trained.precision)
            _write(trained, backbone, hardware, run_id)
    if fabric.is_global_zero:
        checkpoints.clear()  # only now: closing the MLflow run may fail, and hours would be lost


@contextmanager
def _observer(
    fabric: Fabric, tracking: Tracking, backbone: str, inputs: StageInputs
) -> Iterator[tuple[Observer, str]]:
    """Bar, log and MLflow run in the first process, and the run's id; the others have none."""
    if not fabric.is_global_zero:
        yield Observer(), ""
        return
    tags = {"fer.stage": "train", "fer.backbone": backbone}
    with open_run(tracking, backbone, inputs.content, tags=tags) as run:
        run.params(inputs.logged)
        run.tags({"fer.devices": f"{fabric.world_size} x {fabric.device.type}"})
        with Bar() as bar:
            yield TrainingProgress(bar, run, backbone), run.run_id


def _fit(job: Job, checkpoints: Checkpoints) -> Trained | None:
    """Train; None in the other processes if an error ended the training on all devices.

    The first process raises that error. The others must exit with status 0, because Fabric kills
    the first one, which may not have reported it yet, as soon as another one fails.
    """
    try:
        return Trainer(job, checkpoints).fit()
    except SharedTrainingError:
        if job.fabric.is_global_zero:
            raise
        return None


def _write(trained: Trained, backbone: str, hardware: str, run_id: str) -> None:
    """Write the outs, of which the same inputs give the same bytes, apart from the provenance."""
    with whole_file(paths.model_file(backbone)) as partial:
        save_file(trained.state, partial)
    best = trained.best
    metrics = {
        "val_accuracy": best.val_accuracy,
        "val_loss": best.val_loss,
        "train_loss": best.train_loss,
        "best_epoch": best.epoch,
        "epochs": len(trained.history),
    }
    write_json(paths.training_metrics(backbone), metrics)
    curve = [asdict(record) for record in trained.history]
    for row in curve:
        del row["images_per_s"], row["seconds"]
    write_csv(paths.training_curve(backbone), curve)
    git = git_state()
    made_by = {
        "seconds": round(trained.seconds, 1),
        "hardware": hardware,
        "precision": trained.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git.commit,
        "dirty": git.dirty,
        "run_id": run_id,
    }
    write_json(paths.provenance(backbone), made_by)

"""What `benchmarks/gpu.py` measures: the speed of a step, and whole trainings."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from fer_pipeline.data.faces import load_split
from fer_pipeline.files import whole_file
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.models.inference import compute_logits, full_float32
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import TEST, TRAIN, VAL, model_file
from fer_pipeline.stages.predict import predict
from fer_pipeline.training import capture
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.devices import choose_devices
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.history import EpochRecord, Observer
from fer_pipeline.training.job import Images, Job, seed_of, to_device
from fer_pipeline.training.phases import PhaseRun
from fer_pipeline.training.precision import Precision

ON_GPU = torch.cuda.is_available()

MEASURED_STEPS = 40 if ON_GPU else 1
"""Steps of an epoch whose speed is measured; the epoch before it warms everything up."""

TOGETHER_S = 4.0 if ON_GPU else 0.2
"""Seconds in which several trainings at once are measured."""

WAIT_S = 120.0
"""How long a training waits for the others that are measured with it."""

MARGIN = 1.03
"""How much longer the epochs of a training are planned than the one that was measured."""


@dataclass(frozen=True)
class StepSpeed:
    """One network's step.

    Attributes:
        eager_images_per_s: launched kernel by kernel.
        images_per_s: as the engine makes it, which is captured on a GPU.
        step_ms: milliseconds of such a step.
        kernels_ms: in which a kernel ran; None without a GPU.
    """

    image_size: int
    batch_size: int
    eager_images_per_s: float
    images_per_s: float
    step_ms: float
    kernels_ms: float | None


@dataclass
class Clock(Observer):
    """Writes down the epochs, and when the first step was done."""

    say: Callable[[str], None] = lambda line: None
    records: list[EpochRecord] = field(default_factory=list)
    first_step: float | None = None

    def batch_done(self, images: int) -> None:
        if self.first_step is None:
            self.first_step = time.time()

    def epoch_done(self, record: EpochRecord) -> None:
        self.records.append(record)
        self.say(
            f"{record.phase} {record.epoch:>3}  loss {record.train_loss:.3f}"
            f"  val {record.val_loss:.3f} {record.val_accuracy:7.2%}"
            f"  {record.images_per_s:8.0f} images/s  {record.seconds:.2f} s"
        )


def make_job(params: Params, name: str, images: int | None = None, **changes: object) -> Job:
    """A training of one backbone on the prepared faces: on so many of them, or on all."""
    fabric = choose_devices(1, {})
    fabric.launch()
    seed = seed_of(name, params.seed)
    torch.manual_seed(seed)
    training = params.training.model_copy(update=changes)
    own = params.backbones[name]
    model = build_backbone(name, own.weights, training.dropout)
    train, val = (to_device(load_split(path), fabric.device) for path in (TRAIN, VAL))
    if images is not None:
        rows = torch.arange(images, device=fabric.device) % len(train)
        train = Images(train.pixels[rows], train.labels[rows])
    model = model.to(fabric.device)
    return Job(fabric, model, name, own, training, train, val, seed, Observer())


def start(job: Job, precision: Precision | None = None) -> PhaseRun:
    wanted = job.training.precision
    chosen = precision or ("bf16" if wanted == "auto" else wanted)
    return PhaseRun(job, "finetune", 1, chosen, job.params.finetune.batch_size)


@contextmanager
def kernel_by_kernel() -> Iterator[None]:
    """Have the engine capture nothing."""
    before, capture.WARM_CALLS = capture.WARM_CALLS, sys.maxsize
    try:
        yield
    finally:
        capture.WARM_CALLS = before


def measure_step(params: Params, name: str) -> StepSpeed:
    """The speed of a training's steps at the recipe's size and batch."""
    own = params.backbones[name]
    size = own.finetune.batch_size
    with kernel_by_kernel():
        eager = _images_per_s(start(make_job(params, name, MEASURED_STEPS * size)))
    run = start(make_job(params, name, MEASURED_STEPS * size))
    speed = _images_per_s(run)
    return StepSpeed(own.image_size, size, eager, speed, 1e3 * size / speed, _kernels_ms(run))


def _images_per_s(run: PhaseRun) -> float:
    run.train(1)
    started = time.perf_counter()
    _, seen = run.train(2)  # ends with a look at all losses, for which it waits for the device
    return seen / (time.perf_counter() - started)


def _kernels_ms(run: PhaseRun) -> float | None:
    if not ON_GPU:
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        run.train(3)
        torch.cuda.synchronize()
    spent_us = sum(event.self_device_time_total for event in profile.key_averages())
    return float(spent_us / 1e3 / MEASURED_STEPS)


def rate_beside_others(params: Params, name: str) -> float:
    """Images per second while the other backbones' processes are measured too."""
    size = params.backbones[name].finetune.batch_size
    run = start(make_job(params, name, MEASURED_STEPS * size))
    run.train(1)
    Path(f"{name}.ready").touch()
    give_up = time.perf_counter() + WAIT_S
    while not all(Path(f"{other}.ready").exists() for other in params.backbones):
        if time.perf_counter() > give_up:
            raise SystemExit(f"{name} waited {WAIT_S:.0f} s for the others to be ready")
        time.sleep(0.01)
    started, seen, epoch = time.perf_counter(), 0, 1
    while time.perf_counter() - started < TOGETHER_S:
        epoch += 1
        seen += run.train(epoch)[1]
    return seen / (time.perf_counter() - started)


def train(
    params: Params, name: str, started: float, end: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train with as many epochs as fit, and predict val and test.

    Args:
        params: the recipe.
        name: the backbone.
        started: when the process was asked for, in seconds since 1970.
        end: when it has to be done.
        say: takes each line of the log.
    """
    trial = Clock()
    _fit(dataclasses.replace(make_job(params, name), observer=trial), _epochs(params, name, 2))
    epoch_s = MARGIN * trial.records[-1].seconds
    left = end - time.time() - _predict_seconds(params, name)
    epochs = max(2, int(left / epoch_s))
    assert trial.first_step is not None
    say(f"first step after {trial.first_step - started:.1f} s, an epoch {epoch_s:.2f} s: {epochs}")
    clock = Clock(say)
    job = dataclasses.replace(make_job(params, name), observer=clock)
    began = time.perf_counter()
    state = _fit(job, _epochs(params, name, epochs))
    trained_s = time.perf_counter() - began
    with whole_file(model_file(name)) as partial:
        save_file(state, partial)
    began = time.perf_counter()
    predict(params, name)
    return {
        "start_s": trial.first_step - started,
        "epochs": epochs,
        "train_s": trained_s,
        "outside_epochs": 1 - sum(one.seconds for one in clock.records) / trained_s,
        "predict_s": time.perf_counter() - began,
        "history": [dataclasses.asdict(record) for record in clock.records],
    }


def _fit(job: Job, params: Params) -> dict[str, torch.Tensor]:
    own, training = params.backbones[job.backbone], params.training
    job = dataclasses.replace(job, params=own, training=training)
    with TemporaryDirectory(dir=".") as folder:
        return (
            Trainer(job, Checkpoints(Path(folder), "key", training.checkpoint_every_s)).fit().state
        )


def _epochs(params: Params, name: str, epochs: int) -> Params:
    """The same with so many epochs, of which as large a share is warm-up and without mixup."""
    own, training = params.backbones[name], params.training
    share = epochs / own.finetune.epochs
    finetune = own.finetune.model_copy(update={"epochs": epochs})
    shorter = {
        "warmup_epochs": min(epochs - 1, round(share * training.warmup_epochs)),
        "mixup_off_epochs": round(share * training.mixup_off_epochs),
    }
    return params.model_copy(
        update={
            "backbones": {name: own.model_copy(update={"head": None, "finetune": finetune})},
            "training": training.model_copy(update=shorter),
        }
    )


def _predict_seconds(params: Params, name: str) -> float:
    """How long predicting val and test will take, by a part of val."""
    job = make_job(params, name)
    own, part = job.params, job.val.pixels[: 4 * params.predict.batch_size]
    rest = len(job.val) + len(load_split(TEST))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        with full_float32():
            compute_logits(
                job.model,
                part,
                own.image_size,
                own.eval_resize,
                params.predict.batch_size,
                tta=params.predict.tta,
            ).cpu()
        seconds.append(time.perf_counter() - began)
    return 1.5 + MARGIN * seconds[-1] * rest / len(part)

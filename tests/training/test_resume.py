"""A training that is stopped anywhere and taken up again ends with an undisturbed one's bits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import HEAD, PHASE, Bench, Notebook, assert_same_bits, fit, small_network
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import ResNet

from fer_pipeline.params.schema import AugmentParams, HeadParams
from fer_pipeline.training.history import EpochRecord, Trained
from fer_pipeline.training.job import Job

HEAD_EPOCHS, EPOCHS = 2, 5
FINETUNE = PHASE.model_copy(update={"epochs": EPOCHS - HEAD_EPOCHS})
# A batch of another size than fine-tuning's: what belongs to one phase must not leak into the next.
FRESH = HEAD.model_copy(update={"epochs": HEAD_EPOCHS, "batch_size": 7})
CACHED = FRESH.model_copy(update={"cached_views": 2})

EVERY_CHANGE = AugmentParams(
    crop_scale=(0.5, 1.0),
    crop_ratio=(0.8, 1.25),
    flip=0.5,
    rotation=20.0,
    translation=0.1,
    brightness=0.4,
    erasing=0.5,
)

SETTINGS: dict[str, tuple[HeadParams, dict[str, object]]] = {
    "adam": (FRESH, {}),
    "everything": (
        CACHED,
        {
            "optimizer": "sgd",
            "weight_decay": 1e-3,
            "schedule": "onecycle",
            "warmup_epochs": 1,
            "clip_norm": 5.0,
            "ema_decay": 0.9,
            "mixup": 0.3,
            "mixup_off_epochs": 1,
            "label_smoothing": 0.1,
            "augment": EVERY_CHANGE,
        },
    ),
    "adamw in bf16": (CACHED, {"optimizer": "adamw", "precision": "bf16", "patience": 2}),
}


class Stop(BaseException):
    """What a process dies of."""


class Mortal(Notebook):
    """Stops the training after an epoch, or with its first batch."""

    def __init__(self, model: nn.Module, epoch: int, inside: bool = False) -> None:
        super().__init__(model)
        self.last, self.inside = epoch, inside

    def batch_done(self, images: int) -> None:
        super().batch_done(images)
        if self.inside and self.started and self.started[-1][1] == self.last:
            raise Stop

    def epoch_done(self, record: EpochRecord) -> None:
        super().epoch_done(record)
        if not self.inside and record.epoch == self.last:
            raise Stop


def new_job(bench: Bench, name: str) -> Job:
    """All that a new process makes before it looks for checkpoints."""
    head, training = SETTINGS[name]
    model = small_network()
    if name == "everything":
        model.fc.register_forward_pre_hook(
            lambda layer, inputs: (functional.dropout(inputs[0], 0.3, layer.training),)
        )
    return bench.job(model, head, FINETUNE, observer=Notebook(model), **training)


def stop(job: Job, folder: Path, epoch: int, inside: bool = False) -> Mortal:
    observer = Mortal(job.model, epoch, inside)
    with pytest.raises(Stop):
        fit(replace(job, observer=observer), folder)
    return observer


def without_speed(history: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    return [replace(record, images_per_s=0.0, seconds=0.0) for record in history]


def assert_same(found: Trained, wanted: Trained) -> None:
    assert_same_bits(found.state, wanted.state)
    assert without_speed(found.history) == without_speed(wanted.history)
    assert without_speed((found.best,)) == without_speed((wanted.best,))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for checkpoints, which pytest shall not keep."""
    yield tmp_path / "all"
    shutil.rmtree(tmp_path / "all", ignore_errors=True)


@pytest.fixture(scope="module", params=SETTINGS)
def undisturbed(request: pytest.FixtureRequest, bench: Bench) -> tuple[str, Trained]:
    return request.param, fit(new_job(bench, request.param))


def test_stopped_after_every_epoch_it_ends_as_undisturbed(
    undisturbed: tuple[str, Trained], bench: Bench, folder: Path
) -> None:
    name, wanted = undisturbed
    for epoch in range(1, len(wanted.history) + 1):
        observer = stop(new_job(bench, name), folder, epoch)
        assert [started[1] for started in observer.started] == [epoch]
        assert [record.epoch for record in observer.earlier] == list(range(1, epoch))
    assert_same(fit(new_job(bench, name), folder), wanted)


def test_stopped_inside_every_epoch_it_ends_as_undisturbed(bench: Bench, folder: Path) -> None:
    name = "everything"
    wanted = fit(new_job(bench, name))
    for epoch in range(1, len(wanted.history) + 1):
        observer = stop(new_job(bench, name), folder, epoch, inside=True)
        done = max(0, epoch - 2)  # by the processes before, the last of which began one more
        assert [started[1] for started in observer.started] == list(range(done + 1, epoch + 1))
    assert_same(fit(new_job(bench, name), folder), wanted)


def test_with_checkpoints_far_between_it_goes_on_after_the_phase_before(
    bench: Bench, folder: Path
) -> None:
    wanted = fit(new_job(bench, "everything"))
    job = new_job(bench, "everything")
    with pytest.raises(Stop):
        fit(replace(job, observer=Mortal(job.model, EPOCHS - 1)), folder, every_s=1e9)
    job = new_job(bench, "everything")
    assert_same(fit(job, folder, every_s=1e9), wanted)
    assert len(job.observer.earlier) == HEAD_EPOCHS  # type: ignore[attr-defined]


def test_without_its_newest_checkpoint_it_goes_on_from_the_one_before(
    bench: Bench, folder: Path
) -> None:
    wanted = fit(new_job(bench, "everything"))
    stop(new_job(bench, "everything"), folder, HEAD_EPOCHS + 1)
    newest = max(folder.rglob("epoch-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    job = new_job(bench, "everything")
    assert_same(fit(job, folder), wanted)
    assert len(job.observer.earlier) == HEAD_EPOCHS  # type: ignore[attr-defined]


def test_a_training_that_was_done_is_not_trained_again(bench: Bench, folder: Path) -> None:
    first = fit(new_job(bench, "adam"), folder)
    job = new_job(bench, "adam")
    again = fit(job, folder)
    assert job.observer.started == []  # type: ignore[attr-defined]
    assert_same(again, first)


class Cramped(ResNet):
    """Has memory for 7 images at once."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 7:
            raise torch.OutOfMemoryError
        return super().forward(x)


@pytest.mark.slow
def test_the_parts_that_fit_into_memory_are_kept(bench: Bench, folder: Path) -> None:
    """Through them batch norm decides the weights."""
    head = HEAD.model_copy(update={"cached_views": 2})
    finetune = PHASE.model_copy(update={"epochs": 2})

    def cramped() -> Job:
        model = small_network(kind=Cramped)
        return bench.job(model, head, finetune, observer=Notebook(model))

    wanted = fit(cramped())
    for epoch in (1, 2):
        stop(cramped(), folder, epoch)
    last = cramped()
    assert_same(fit(last, folder), wanted)
    assert last.observer.notes == {"micro_batch.finetune": "7"}  # another MLflow run may watch it


def test_a_precision_that_was_measured_is_said_again(bench: Bench, folder: Path) -> None:
    model = small_network()
    job = bench.job(model, HEAD, FINETUNE, observer=Notebook(model), precision="auto")
    first = stop(job, folder, 1)
    again = Notebook(job.model)
    fit(replace(job, observer=again), folder)
    assert again.notes == first.notes
    assert set(again.notes) == {"precision"}


def test_the_time_of_all_processes_is_added(bench: Bench, folder: Path) -> None:
    stop(new_job(bench, "adam"), folder, EPOCHS)
    (newest,) = folder.rglob(f"epoch-{EPOCHS:05}-*.pt")
    found = torch.load(newest, weights_only=True)
    spent = found["seconds"]
    assert "best_state" in found
    assert not {"model", "run"} & set(found)  # no epoch is left, and nobody needs them
    began = time.perf_counter()
    trained = fit(new_job(bench, "adam"), folder)
    assert spent > sum(record.seconds for record in trained.history)
    assert spent < trained.seconds < spent + time.perf_counter() - began

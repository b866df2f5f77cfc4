"""Train one backbone as Cao et al. do (section 2.5): first its head, then all of it."""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fer_pipeline.errors import SharedTrainingError, TrainingError
from fer_pipeline.models.catalog import CATALOG
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.history import EpochRecord, Trained
from fer_pipeline.training.job import Job
from fer_pipeline.training.memory import explain_device_errors
from fer_pipeline.training.phases import PhaseRun
from fer_pipeline.training.precision import Precision, choose_precision

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Phase

log = logging.getLogger(__name__)


class Trainer:
    """A backbone on its way through both phases; `fit` is called once."""

    def __init__(self, job: Job, checkpoints: Checkpoints) -> None:
        self._job, self._phases = job, job.params.phases
        self._checkpoints = checkpoints
        self._precision: Precision = "fp32"
        self._history: list[EpochRecord] = []
        self._best: EpochRecord | None = None
        self._best_state: dict[str, Tensor] = {}
        self._micro_batches: dict[str, int] = {}
        self._spent_s = self._started = 0.0

    def fit(self) -> Trained:
        """Train through both phases and keep the best epoch by val accuracy.

        Goes on after the last epoch of which there is a checkpoint.

        Raises:
            TrainingError: the loss is no longer a number, memory does not suffice, or the GPU
                fails; a `SharedTrainingError` where all devices know it.
        """
        self._started = time.perf_counter()
        with self._job.fabric.rank_zero_first():  # which reports and deletes a damaged one
            found = self._checkpoints.load()
        with explain_device_errors(self._job.backbone, "free memory on the device"):
            if found:
                self._take_over(found)
            self._precision = found["precision"] if found else choose_precision(self._job)
            try:
                self._run_phases(found)
            except BaseException:  # the next process goes on from what is being written
                with suppress(TrainingError):
                    self._checkpoints.wait()
                raise
        assert self._best is not None
        state = {key: value.cpu().contiguous() for key, value in self._best_state.items()}
        return Trained(tuple(self._history), self._best, state, self._precision, self._seconds())

    def _run_phases(self, found: dict[str, Any] | None) -> None:
        first = 1
        for name, phase in self._phases.items():
            size = "cached_views" if self._job.params.cached_views(name) else "batch_size"
            advice = f"lower backbones.{self._job.backbone}.image_size or {name}.{size}"
            with explain_device_errors(self._job.backbone, advice):
                self._run_phase(name, first, first + phase.epochs - 1, found)
            first += phase.epochs

    def _seconds(self) -> float:
        """Seconds of this process and of the killed ones whose epochs it continued."""
        return self._spent_s + time.perf_counter() - self._started

    def _run_phase(self, name: Phase, first: int, last: int, found: dict[str, Any] | None) -> None:
        """Train the epochs of a phase that are missing. Its memory is freed when this returns."""
        if len(self._history) >= last or self._stopped(name):
            return
        # What another phase left is no part of this one.
        begun = found if found and len(self._history) >= first else None
        micro_batch = self._micro_batches.get(name, self._phases[name].batch_size)
        run = PhaseRun(self._job, name, first, self._precision, micro_batch)
        if begun:
            run.load_state_dict(begun["run"])
        while len(self._history) < last and not self._stopped(name):
            self._run_epoch(run, last)

    def _run_epoch(self, run: PhaseRun, last: int) -> None:
        job, epoch = self._job, len(self._history) + 1
        total = sum(phase.epochs for phase in self._phases.values())
        job.observer.epoch_started(run.name, epoch, total, len(job.train))
        learning_rate = run.learning_rate
        started = time.perf_counter()
        train_loss, seen = run.train(epoch)
        images_per_s = seen / (time.perf_counter() - started)
        val_loss, val_accuracy = run.validate()
        if not math.isfinite(val_loss):  # the last step may have spoilt the weights
            raise SharedTrainingError(
                f"{job.backbone}: the loss on val after epoch {epoch} ({run.name}) is {val_loss}: "
                f"lower backbones.{job.backbone}.{run.name}.learning_rate"
            )
        record = EpochRecord(
            epoch=epoch,
            phase=run.name,
            learning_rate=learning_rate,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            images_per_s=images_per_s,
            seconds=time.perf_counter() - started,
        )
        self._history.append(record)
        if self._best is None or record.val_accuracy > self._best.val_accuracy:
            self._best = record
            self._best_state = {}  # so that memory holds one at a time
            self._best_state = _copy_state(run.model)
        self._save(run, ended=epoch == last or self._stopped(run.name))
        job.observer.epoch_done(record)

    def _stopped(self, phase: Phase) -> bool:
        """Whether fine-tuning has gone on for long enough without getting better."""
        patience = self._job.training.patience
        if patience is None or phase == "head" or self._best is None:
            return False
        tuned = [record.epoch for record in self._history if record.phase == "finetune"]
        return bool(tuned) and tuned[-1] - max(self._best.epoch, tuned[0] - 1) >= patience

    def _save(self, run: PhaseRun, *, ended: bool) -> None:
        """Save a checkpoint on the first device if one is due, or the phase has ended.

        If it can't be written, all devices raise the error.
        """
        self._micro_batches[run.name] = run.micro_batch
        fault = ""
        if self._job.fabric.is_global_zero:
            save = self._checkpoints.finish if ended else self._checkpoints.save
            done = ended and run.name == list(self._phases)[-1]
            try:
                if ended or self._checkpoints.due():
                    save(len(self._history), self._result() if done else self._state(run))
            except TrainingError as error:
                fault = str(error)
        if fault := self._job.fabric.broadcast(fault):
            raise SharedTrainingError(fault)

    def _state(self, run: PhaseRun) -> dict[str, Any]:
        """What the next epoch needs."""
        return self._result() | {
            "best_state": self._trainable_part(run, self._best_state),
            "model": self._trainable_part(run, self._job.model.state_dict()),
            "run": run.state_dict(),
        }

    def _result(self) -> dict[str, Any]:
        """What counts once no epoch is left: a quarter of the bytes, or less."""
        assert self._best is not None
        return {
            "history": [asdict(record) for record in self._history],
            "best": asdict(self._best),
            "best_state": self._best_state,
            "precision": self._precision,
            "micro_batches": self._micro_batches,
            "seconds": self._seconds(),
        }

    def _trainable_part(self, run: PhaseRun, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a phase trains: in the head phase a thousandth of all, quickly written."""
        if run.name == "finetune":
            return state
        prefix = f"{CATALOG[self._job.backbone].head}."
        return {key: value for key, value in state.items() if key.startswith(prefix)}

    def _take_over(self, found: dict[str, Any]) -> None:
        model = self._job.model
        first = _copy_state(model)
        self._history = [EpochRecord(**record) for record in found["history"]]
        self._best = EpochRecord(**found["best"])
        self._best_state = {**first, **found["best_state"]}
        self._micro_batches = found["micro_batches"]
        self._spent_s = found["seconds"]
        model.load_state_dict({**model.state_dict(), **found.get("model", {})})
        log.info("%s: going on after epoch %d", self._job.backbone, len(self._history))
        self._job.observer.resumed(self._history)
        if self._job.training.precision == "auto":
            self._job.observer.noted("precision", found["precision"])
        for name, phase in self._phases.items():
            if self._micro_batches.get(name, phase.batch_size) < phase.batch_size:
                self._job.observer.noted(f"micro_batch.{name}", str(self._micro_batches[name]))


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the same device: the live tensors change with the next step."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}

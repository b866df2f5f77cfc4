"""The two phases of transfer learning: which weights are trained, and how an epoch of each goes."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_pipeline.errors import SharedTrainingError
from fer_pipeline.models.backbones import head_of
from fer_pipeline.models.inference import compute_logits
from fer_pipeline.training.capture import Captured
from fer_pipeline.training.devices import convert_sync_batchnorm, share_statistics
from fer_pipeline.training.features import CachedFeatures, cache_features
from fer_pipeline.training.job import Job, draws_of_epoch
from fer_pipeline.training.memory import halve_until_it_fits
from fer_pipeline.training.optimizers import (
    MovingAverage,
    build_optimizer,
    build_schedule,
    fit_to_device,
)
from fer_pipeline.training.precision import Precision, autocast
from fer_pipeline.training.step import Step, StepInputs, draw_inputs

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Phase

log = logging.getLogger(__name__)

CHECK_STEPS = 50
"""Steps between two checks of the losses: on a GPU each check waits for all steps before it."""

INFERENCE_FACTOR = {"cpu": 4, "cuda": 16}
"""How many times more images go through a network at once where nothing is kept for gradients. On a
GPU small batches would be over before Python has launched the next."""


def enter_phase(model: nn.Module, backbone: str, phase: Phase) -> list[nn.Parameter]:
    """Freeze or free the weights, set train or eval mode, and give the trainable weights.

    In the head phase the frozen part is in eval mode, so that its batch norm statistics stay.
    """
    model.requires_grad_(phase == "finetune")
    model.train(phase == "finetune")
    head = head_of(model, backbone)
    head.requires_grad_(True)
    head.train()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class PhaseRun:
    """A phase while it runs: optimiser, schedule, average, and the steps of its epochs.

    Args:
        job: what is trained.
        name: the phase.
        first_epoch: its number, counted over both phases.
        precision: the one that the network runs in.
        micro_batch: images per forward pass, at most; the gradients of a batch's parts are added.
    """

    def __init__(
        self, job: Job, name: Phase, first_epoch: int, precision: Precision, micro_batch: int
    ) -> None:
        params = job.params.phases[name]
        views = job.params.cached_views(name)
        self.name = name
        self._job, self._params, self._precision = job, params, precision
        self._last_epoch = first_epoch + params.epochs - 1
        trainable = enter_phase(job.model, job.backbone, name)
        if name == "finetune":
            convert_sync_batchnorm(job.model, job.fabric)
        self._optimizer = build_optimizer(trainable, params.learning_rate, job.training)
        self._steps = max(1, len(job.train) // params.batch_size)
        warmup = job.training.warmup_epochs if name == "finetune" else 0
        self._schedule = build_schedule(
            self._optimizer,
            job.training.schedule,
            self._steps * params.epochs,
            self._steps * warmup,
        )
        fit_to_device(self._optimizer, job.fabric.device)
        self._features = self._cache(views, micro_batch) if views else None
        self._average = None
        if job.training.ema_decay is not None and name == "finetune":
            self._average = MovingAverage(job.model, job.training.ema_decay)
        net = head_of(job.model, job.backbone) if views else job.model
        net, optimizer = job.fabric.setup(net, self._optimizer)
        features = self._features.train if self._features else None
        self._step = Step(job, name, precision, micro_batch, net, optimizer, features)
        self._make_step: Step | Captured[StepInputs] = self._step
        if job.fabric.device.type == "cuda" and job.fabric.world_size == 1 and not views:
            label = f"{job.backbone}'s {name} step"
            self._make_step = Captured(self._step, label, self._step.takes_whole_batches)
        self._val_images = sys.maxsize

    @property
    def micro_batch(self) -> int:
        return self._step.micro_batch

    @property
    def captured(self) -> bool:
        """Whether its steps are replayed from a graph by now."""
        return isinstance(self._make_step, Captured) and self._make_step.captured

    @property
    def learning_rate(self) -> float:
        """Of the next step, as it is on a CPU: on a GPU there is a rounded one."""
        factor = self._schedule.lr_lambdas[0](self._schedule.last_epoch)
        return float(self._params.learning_rate * factor)

    @property
    def model(self) -> nn.Module:
        """The network that counts: the average, where there is one."""
        module: nn.Module = self._average.module if self._average else self._job.model
        return module

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "average": self._average.state_dict() if self._average else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        fit_to_device(self._optimizer, self._job.fabric.device)
        self._schedule.load_state_dict(state["schedule"])
        if self._average:
            self._average.load_state_dict(state["average"])

    def train(self, epoch: int) -> tuple[float, int]:
        """One pass over the training images in a new order: mean loss, and images seen.

        Raises:
            SharedTrainingError: the loss is no longer a number.
        """
        job, size = self._job, self._params.batch_size
        draws = draws_of_epoch(job.seed, epoch, job.fabric.device, job.fabric.global_rank)
        order = torch.randperm(len(job.train), generator=draws.order)
        # Batch norm can't take a last batch of one image, and in a short one each image would count
        # for more. All devices get as many, so that each goes as often through the network.
        count = min(self._steps * size, len(order))
        order = order[: count - count % job.fabric.world_size].to(job.fabric.device)
        batches = torch.split(order, size)
        losses = torch.zeros(len(batches), device=job.fabric.device)
        views = len(self._features.train) if self._features else 0
        mixup = self._mixup(epoch)
        for step, rows in enumerate(batches):
            losses[step] = self._make_step(draw_inputs(rows, draws, views, mixup))
            self._schedule.step()
            if self._average:
                self._average.update()
            if (step + 1) % CHECK_STEPS == 0 or step + 1 == len(batches):
                # Of all devices, so that all of them stop.
                losses = cast(Tensor, job.fabric.all_reduce(losses, reduce_op="mean"))
                self._require_numbers(losses[: step + 1], epoch)
            job.observer.batch_done(len(rows))
        return float(losses.mean()), sum(map(len, batches))

    def validate(self) -> tuple[float, float]:
        """Mean cross-entropy and top-1 accuracy of `model` on val."""
        job = self._job
        for model in dict.fromkeys((job.model, self.model)):
            share_statistics(model, job.fabric)
        head = head_of(job.model, job.backbone)
        with autocast(job.fabric.device, self._precision):
            if self._features is not None:
                with torch.no_grad():
                    logits = head.eval()(self._features.val).float()
                head.train()
            else:
                logits = self._val_logits()
        loss = functional.cross_entropy(logits, job.val.labels)
        hits = (logits.argmax(dim=1) == job.val.labels).float().mean()
        # Each device has cached features of its own: were they to differ in a last digit, so might
        # the best epoch, and one would stop where the others wait.
        return job.fabric.broadcast((float(loss), float(hits)))

    def _mixup(self, epoch: int) -> float | None:
        """Mixup's parameter in an epoch; None in a phase without mixup."""
        if self.name == "head" or not self._job.training.mixup:
            return None
        mixing = epoch <= self._last_epoch - self._job.training.mixup_off_epochs
        return self._job.training.mixup if mixing else 0.0

    def _require_numbers(self, losses: Tensor, epoch: int) -> None:
        wrong = torch.nonzero(~torch.isfinite(losses))
        if len(wrong):
            step = int(wrong[0])
            raise SharedTrainingError(
                f"{self._job.backbone}: the loss of epoch {epoch} ({self.name}), step {step + 1}, "
                f"is {float(losses[step])}: lower "
                f"backbones.{self._job.backbone}.{self.name}.learning_rate"
            )

    def _val_logits(self) -> Tensor:
        """(N, C): each device computes a share, and all get the whole."""
        job = self._job
        fabric, count = job.fabric, len(job.val)
        each = -(-count // fabric.world_size)
        share = slice(fabric.global_rank * each, (fabric.global_rank + 1) * each)
        sizes = job.params.image_size, job.params.eval_resize
        logits, self._val_images = halve_until_it_fits(
            lambda images: compute_logits(self.model, job.val.pixels[share], *sizes, images),
            min(self._val_images, self._at_once(self.micro_batch)),
        )
        whole = torch.zeros(count, logits.shape[1], device=logits.device)
        whole[share] = logits
        return cast(Tensor, fabric.all_reduce(whole, reduce_op="sum"))

    def _at_once(self, micro_batch: int) -> int:
        """Images per forward pass that keeps nothing for gradients."""
        return INFERENCE_FACTOR[self._job.fabric.device.type] * micro_batch

    def _cache(self, views: int, micro_batch: int) -> CachedFeatures:
        """Each device caches features of its own."""
        job = self._job
        features = cache_features(job, views, self._at_once(micro_batch), self._precision)
        enter_phase(job.model, job.backbone, self.name)
        return features

"""The two phases of transfer learning: which weights are trained, and how an epoch of each goes."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_pipeline.errors import SharedTrainingError
from fer_pipeline.models.backbones import head_of
from fer_pipeline.models.inference import compute_logits
from fer_pipeline.training.augment import augment_batch
from fer_pipeline.training.devices import compile_network, convert_sync_batchnorm, share_statistics
from fer_pipeline.training.features import CachedFeatures, cache_features
from fer_pipeline.training.job import Draws, Job, draws_of_epoch
from fer_pipeline.training.losses import Targets, classification_loss, mix
from fer_pipeline.training.memory import (
    agree_on_micro_batch,
    halve_until_it_fits,
    least_of_all,
    micro_batches,
)
from fer_pipeline.training.optimizers import build_average, build_optimizer, build_schedule
from fer_pipeline.training.precision import Precision, autocast

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Phase

log = logging.getLogger(__name__)

CHECK_STEPS = 50
"""Steps between two checks of the losses: on a GPU each check waits for all steps before it."""

INFERENCE_FACTOR = 4
"""How many times more images fit into memory in a forward pass that keeps nothing for gradients."""


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
        self.micro_batch = micro_batch
        if job.fabric.world_size > 1 and not views:
            self._agree()
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
        self._features = self._cache(views) if views else None
        self._average = None
        if job.training.ema_decay is not None and name == "finetune":
            self._average = build_average(job.model, job.training.ema_decay)
        net = (
            head_of(job.model, job.backbone)
            if views
            else compile_network(job.model, job.training.compile, job.fabric.device)
        )
        self._net, self._fabric_optimizer = job.fabric.setup(net, self._optimizer)

    @property
    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

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
        batches = torch.split(order[: count - count % job.fabric.world_size], size)
        losses = torch.zeros(len(batches), device=job.fabric.device)
        for step, rows in enumerate(batches):
            batch, targets = self._prepare(rows.to(job.fabric.device), draws, epoch)
            losses[step] = self._step(batch, targets)
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

    def _prepare(self, rows: Tensor, draws: Draws, epoch: int) -> tuple[Tensor, Targets]:
        """A batch's inputs and targets, the same on every device that shares it."""
        job = self._job
        labels = job.train.labels[rows]
        if self._features is not None:
            views = self._features.train  # (K, N, D)
            view = torch.randint(len(views), (len(rows),), generator=draws.order)
            return views[view.to(rows.device), rows], Targets(labels)
        batch = augment_batch(
            job.train.pixels[rows], job.params.image_size, job.training.augment, draws.pictures
        )
        mixing = (
            self.name == "finetune" and epoch <= self._last_epoch - job.training.mixup_off_epochs
        )
        return mix(batch, labels, job.training.mixup if mixing else 0.0, draws.mixing)

    def _step(self, batch: Tensor, targets: Targets) -> Tensor:
        """One optimiser step on this device's share of a batch; gives the share's mean loss."""
        fabric = self._job.fabric
        share = slice(fabric.global_rank, None, fabric.world_size)
        batch, targets = batch[share], targets.select(share)
        now = min(self.micro_batch, len(batch))
        if fabric.world_size == 1:
            loss, fitting = halve_until_it_fits(
                lambda images: self._gradients(batch, targets, images), now
            )
            self._shrink(now, fitting)
        else:
            loss = self._gradients(batch, targets, now)
        if self._job.training.clip_norm is not None:
            fabric.clip_gradients(
                self._net,
                self._fabric_optimizer,
                max_norm=self._job.training.clip_norm,
                error_if_nonfinite=False,  # `_require_numbers` says it better
            )
        self._fabric_optimizer.step()
        self._schedule.step()
        if self._average:
            self._average.update_parameters(self._job.model)
        return loss

    def _gradients(self, batch: Tensor, targets: Targets, at_once: int) -> Tensor:
        """Gradients of the mean loss over a batch, from parts of at most so many images."""
        fabric, training = self._job.fabric, self._job.training
        self._fabric_optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=batch.device)
        for part in micro_batches(len(batch), at_once):
            with fabric.no_backward_sync(self._net, enabled=part.stop < len(batch)):
                with autocast(fabric.device, self._precision):
                    output = self._net(batch[part])
                weight = self._job.params.auxiliary_weight
                loss = classification_loss(
                    output, targets.select(part), training.label_smoothing, weight
                )
                loss = loss * ((part.stop - part.start) / len(batch))
                fabric.backward(loss)
            total += loss.detach()
        return total

    def _agree(self) -> None:
        """Several devices can't change later how many images they take at once."""
        share = min(self.micro_batch, self._params.batch_size // self._job.fabric.world_size)
        self._shrink(share, agree_on_micro_batch(self._job, self._precision, share))

    def _shrink(self, images: int, fitting: int) -> None:
        if fitting == images:
            return
        self.micro_batch = fitting
        if self._job.fabric.is_global_zero:
            log.warning(
                "%s: out of memory with %d images at once: going on with %d, their gradients added",
                self._job.backbone,
                images,
                fitting,
            )
        self._job.observer.noted(f"micro_batch.{self.name}", str(fitting))

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
        logits, _ = halve_until_it_fits(
            lambda images: compute_logits(
                self.model,
                job.val.pixels[share],
                job.params.image_size,
                job.params.eval_resize,
                images,
            ),
            INFERENCE_FACTOR * self.micro_batch,
        )
        whole = torch.zeros(count, logits.shape[1], device=logits.device)
        whole[share] = logits
        return cast(Tensor, fabric.all_reduce(whole, reduce_op="sum"))

    def _cache(self, views: int) -> CachedFeatures:
        """Each device caches features of its own; where one lacks the memory, all end."""
        job, features = self._job, None
        with suppress(torch.OutOfMemoryError):
            images = INFERENCE_FACTOR * self.micro_batch
            features = cache_features(job, views, images, self._precision)
        least_of_all(job.fabric, int(features is not None))
        assert features is not None
        enter_phase(job.model, job.backbone, self.name)
        return features

"""One optimiser step, from the rows of a batch to changed weights.

What a step draws is drawn before it (`draw_inputs`) and given to it as tensors, so that on a GPU
the whole of it can be captured (`training.capture`), and the same code runs either way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fer_pipeline.training.augment import augment_batch, draw_augmentation
from fer_pipeline.training.job import Draws, Job
from fer_pipeline.training.memory import halve_until_it_fits, micro_batches
from fer_pipeline.training.precision import Precision, autocast

if TYPE_CHECKING:
    from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer

    from fer_pipeline.params.schema import Phase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Targets:
    """Labels of a batch, perhaps mixed.

    Attributes:
        labels: (B,) int64.
        others: (B,) int64, the labels of what was mixed in, or None.
        shares: (2,) weights of `labels` and of `others` in the loss, or None.
    """

    labels: Tensor
    others: Tensor | None = None
    shares: Tensor | None = None

    def select(self, rows: slice) -> Targets:
        others = None if self.others is None else self.others[rows]
        return Targets(self.labels[rows], others, self.shares)


class StepInputs(NamedTuple):
    """What a step needs to know of its batch, on the device.

    Attributes:
        rows: (B,) int64, which of the training images.
        draws: (13, B) uniform numbers for their augmentation, or (B,) int64, which cached view of
            each.
        partners: (B,) int64, which image of the batch is mixed into each; None without mixup.
        shares: (2,) weights of an image and of its partner; None without mixup.
    """

    rows: Tensor
    draws: Tensor
    partners: Tensor | None
    shares: Tensor | None


def draw_inputs(rows: Tensor, draws: Draws, views: int, mixup: float | None) -> StepInputs:
    """Draw what a step needs: the same on every device that shares the batch.

    Args:
        rows: (B,) on the device.
        draws: the epoch's generators.
        views: number of cached views; 0 where images are augmented.
        mixup: parameter of the beta distribution; 0 mixes each image with itself, which changes
            nothing but keeps the step the same; None leaves mixing out.
    """
    if views:
        view = torch.randint(views, (len(rows),), generator=draws.order)
        return StepInputs(rows, view.to(rows.device, non_blocking=True), None, None)
    numbers = draw_augmentation(len(rows), draws.pictures)
    if mixup is None:
        return StepInputs(rows, numbers, None, None)
    mixing = draw_mixup(len(rows), mixup, draws.mixing)
    # Not waited for: with a copy that waits the GPU would idle until Python has launched the next
    # step. CUDA has read what lies in ordinary memory before the call returns.
    return StepInputs(rows, numbers, *(one.to(rows.device, non_blocking=True) for one in mixing))


@dataclass
class Step:
    """The steps of one phase; a call makes one.

    Devices that share a batch take their shares at once: one that went on with smaller parts would
    let the others wait for its gradients.

    Attributes:
        job: what is trained.
        phase: its name.
        precision: the one that the network runs in.
        micro_batch: images per forward pass, at most; the gradients of a batch's parts are added.
            It gets smaller where memory does not suffice.
        net: the trained part of the network, as Fabric wraps it.
        optimizer: likewise.
        features: (K, N, D) cached views of the training images, which are then the inputs.
    """

    job: Job
    phase: Phase
    precision: Precision
    micro_batch: int
    net: _FabricModule
    optimizer: _FabricOptimizer
    features: Tensor | None = None

    def __call__(self, inputs: StepInputs) -> Tensor:
        """One optimiser step on this device's share of a batch; gives the share's mean loss."""
        fabric, clip_norm = self.job.fabric, self.job.training.clip_norm
        batch, targets = self._prepare(inputs)
        share = slice(fabric.global_rank, None, fabric.world_size)
        batch, targets = batch[share], targets.select(share)
        now = min(self.micro_batch, len(batch))
        # Halving would be recorded. A step that does not fit into a capture may fit outside.
        capturing = batch.is_cuda and torch.cuda.is_current_stream_capturing()
        if fabric.world_size == 1 and not capturing:
            loss, fitting = halve_until_it_fits(
                lambda images: self._gradients(batch, targets, images), now
            )
            self.shrink(now, fitting)
        else:
            loss = self._gradients(batch, targets, now)
        if clip_norm is not None:
            fabric.clip_gradients(
                self.net,
                self.optimizer,
                max_norm=clip_norm,
                error_if_nonfinite=False,  # the check of the losses says it better
            )
        self.optimizer.step()
        return loss

    def takes_whole_batches(self) -> bool:
        """Whether a batch goes through the network at once, so that a step can be captured."""
        return self.micro_batch >= self.job.params.phases[self.phase].batch_size

    def shrink(self, images: int, fitting: int) -> None:
        """Take fewer images at once from now on, and say so, where memory was found to be short."""
        if fitting == images:
            return
        self.micro_batch = fitting
        log.warning(
            "%s: out of memory with %d images at once: going on with %d, their gradients added",
            self.job.backbone,
            images,
            fitting,
        )
        self.job.observer.noted(f"micro_batch.{self.phase}", str(fitting))

    def _prepare(self, inputs: StepInputs) -> tuple[Tensor, Targets]:
        """A batch's images or features, and its targets."""
        job, rows = self.job, inputs.rows
        labels = job.train.labels[rows]
        if self.features is not None:
            return self.features[inputs.draws, rows], Targets(labels)
        batch = augment_batch(
            job.train.pixels[rows], job.params.image_size, job.training.augment, inputs.draws
        )
        if inputs.partners is None or inputs.shares is None:
            return batch, Targets(labels)
        return mix(batch, labels, inputs.partners, inputs.shares)

    def _gradients(self, batch: Tensor, targets: Targets, at_once: int) -> Tensor:
        """Gradients of the mean loss over a batch, from parts of at most so many images."""
        fabric, training = self.job.fabric, self.job.training
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=batch.device)
        for part in micro_batches(len(batch), at_once):
            with autocast(fabric.device, self.precision):
                logits = self.net(batch[part])
            loss = classification_loss(logits, targets.select(part), training.label_smoothing)
            loss = loss * ((part.stop - part.start) / len(batch))
            fabric.backward(loss)
            total += loss.detach()
        return total


def draw_mixup(images: int, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the partners of so many images, and the weights of an image and of its partner.

    Args:
        images: B.
        alpha: parameter of the beta distribution; 0 gives each image itself, with all the weight.
        rng: what draws.

    Returns:
        (B,) int64 and (2,) float32, on the CPU.
    """
    if not alpha:
        return torch.arange(images), torch.tensor([1.0, 0.0])
    share = float(rng.beta(alpha, alpha))
    return torch.from_numpy(rng.permutation(images)), torch.tensor([share, 1.0 - share])


def mix(batch: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> tuple[Tensor, Targets]:
    """Mixup (Zhang et al., arXiv 1710.09412): each image with another one of its batch.

    Args:
        batch: (B, ...) network inputs.
        labels: (B,).
        partners, shares: from `draw_mixup`, on the device of `batch`.
    """
    mixed = torch.lerp(batch[partners], batch, shares[0])
    return mixed, Targets(labels, labels[partners], shares)


def classification_loss(logits: Tensor, targets: Targets, smoothing: float) -> Tensor:
    """Mean cross-entropy in nats.

    Args:
        logits: (B, C).
        targets: the targets of the same B images.
        smoothing: label smoothing (Szegedy et al., arXiv 1512.00567).
    """
    loss = functional.cross_entropy(logits.float(), targets.labels, label_smoothing=smoothing)
    if targets.others is None or targets.shares is None:
        return loss
    other = functional.cross_entropy(logits.float(), targets.others, label_smoothing=smoothing)
    return targets.shares[0] * loss + targets.shares[1] * other

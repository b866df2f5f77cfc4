"""Train one backbone as Cao et al. do (section 2.5): first its head, then all of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_pipeline.errors import TrainingError
from fer_pipeline.models.inference import compute_logits
from fer_pipeline.training.augment import augment_batch
from fer_pipeline.training.phases import enter_phase
from fer_pipeline.training.records import EpochRecord, Observer, Phase, Trained

if TYPE_CHECKING:
    from fer_pipeline.data.faces import Split
    from fer_pipeline.params import BackboneParams, PhaseParams, TrainingParams


@dataclass(frozen=True)
class Images:
    """A split held in the device's memory: (N, 48, 48) uint8 and (N,) int64."""

    pixels: Tensor
    labels: Tensor


def hold(split: Split, device: torch.device) -> Images:
    return Images(
        torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)
    )


class Trainer:
    """A backbone on its way through both phases; `fit` is called once."""

    def __init__(
        self,
        model: nn.Module,
        backbone: str,
        params: BackboneParams,
        training: TrainingParams,
        train: Images,
        val: Images,
        seed: int,
        observer: Observer,
    ) -> None:
        self._model = model
        self._backbone = backbone
        self._params = params
        self._augment = training.augment
        self._train = train
        self._val = val
        self._observer = observer
        # Order and crops have generators of their own, so that neither depends on what
        # the network draws for its dropout.
        self._order = torch.Generator().manual_seed(seed)
        self._crops = torch.Generator(train.pixels.device).manual_seed(seed)

    def fit(self) -> Trained:
        """Train through both phases and keep the best epoch by val accuracy.

        Raises:
            TrainingError: the loss is no longer a number.
        """
        phases: list[tuple[Phase, PhaseParams]] = [("finetune", self._params.finetune)]
        if self._params.head is not None:
            phases.insert(0, ("head", self._params.head))
        total = sum(phase.epochs for _, phase in phases)
        history: list[EpochRecord] = []
        best: EpochRecord | None = None
        state: dict[str, Tensor] = {}
        for name, phase in phases:
            moving = enter_phase(self._model, self._backbone, name)
            optimizer = torch.optim.Adam(moving, lr=phase.learning_rate)
            for _ in range(phase.epochs):
                epoch = len(history) + 1
                self._observer.epoch_started(name, epoch, total, len(self._train.pixels))
                record = self._run_epoch(epoch, name, phase, optimizer)
                history.append(record)
                if best is None or record.val_accuracy > best.val_accuracy:
                    best, state = record, _copy_state(self._model)
                self._observer.epoch_done(record)
        assert best is not None
        return Trained(tuple(history), best, state)

    def _run_epoch(
        self, epoch: int, name: Phase, phase: PhaseParams, optimizer: torch.optim.Optimizer
    ) -> EpochRecord:
        started = time.perf_counter()
        train_loss, seen = self._train_once(phase.batch_size, optimizer)
        images_per_s = seen / (time.perf_counter() - started)
        val_loss, val_accuracy = self._validate(phase.batch_size)
        # The loss on val sees what the epoch's last step did to the weights.
        for loss in (train_loss, val_loss):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{self._backbone}: the loss of epoch {epoch} ({name}) is {loss}: "
                    f"lower backbones.{self._backbone}.{name}.learning_rate"
                )
        return EpochRecord(
            epoch=epoch,
            phase=name,
            learning_rate=phase.learning_rate,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            images_per_s=images_per_s,
        )

    def _train_once(self, batch_size: int, optimizer: torch.optim.Optimizer) -> tuple[float, int]:
        """One pass over the training images in a new order: mean loss, and images seen."""
        images, labels = self._train.pixels, self._train.labels
        order = torch.randperm(len(images), generator=self._order).to(images.device)
        # Batch norm can't take a last batch of one image; a short one would also weigh more.
        whole = len(order) // batch_size * batch_size or len(order)
        total = torch.zeros((), device=images.device)
        for rows in torch.split(order[:whole], batch_size):
            batch = augment_batch(images[rows], self._params.image_size, self._augment, self._crops)
            loss = functional.cross_entropy(self._model(batch), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(rows)
            self._observer.batch_done(len(rows))
        return float(total) / whole, whole

    def _validate(self, batch_size: int) -> tuple[float, float]:
        """Mean cross-entropy and top-1 accuracy on val."""
        logits = compute_logits(
            self._model,
            self._val.pixels,
            self._params.image_size,
            self._params.eval_resize,
            batch_size,
        )
        loss = functional.cross_entropy(logits, self._val.labels)
        hits = (logits.argmax(dim=1) == self._val.labels).float().mean()
        return float(loss), float(hits)


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU: the live tensors change with the next step."""
    return {
        key: value.detach().to("cpu", copy=True).contiguous()
        for key, value in model.state_dict().items()
    }

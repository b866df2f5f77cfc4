"""What a training reports while it runs and leaves when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from fer_pipeline.training.precision import Precision

Phase = Literal["head", "finetune"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: losses are mean cross-entropies in nats, accuracy is a fraction.

    Attributes:
        epoch: counted from 1 over both phases.
        images_per_s: of the training pass alone.
        seconds: of the training pass and the validation.
    """

    epoch: int
    phase: Phase
    learning_rate: float
    train_loss: float
    val_loss: float
    val_accuracy: float
    images_per_s: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        history: all epochs.
        best: the one with the best val accuracy.
        state: its weights.
        precision: that the network ran in.
        seconds: of wall time, caching and measuring included; of a process that was cut off, up to
            its last checkpoint.
    """

    history: tuple[EpochRecord, ...]
    best: EpochRecord
    state: dict[str, Tensor]
    precision: Precision
    seconds: float


class Observer(Protocol):
    """Whoever watches a training; it can't change it.

    `noted` is told what the training decided by itself, such as its precision; `resumed` the
    epochs of the process that this one goes on after; `batch_done` of images of the epoch, or of
    the caching of features, that was started last.
    """

    def noted(self, name: str, value: str) -> None: ...

    def resumed(self, history: Sequence[EpochRecord]) -> None: ...

    def caching_started(self, images: int) -> None: ...

    def epoch_started(self, phase: Phase, epoch: int, epochs: int, images: int) -> None: ...

    def batch_done(self, images: int) -> None: ...

    def epoch_done(self, record: EpochRecord) -> None: ...


class Silent:
    """An observer that does nothing."""

    def noted(self, name: str, value: str) -> None:
        pass

    def resumed(self, history: Sequence[EpochRecord]) -> None:
        pass

    def caching_started(self, images: int) -> None:
        pass

    def epoch_started(self, phase: Phase, epoch: int, epochs: int, images: int) -> None:
        pass

    def batch_done(self, images: int) -> None:
        pass

    def epoch_done(self, record: EpochRecord) -> None:
        pass

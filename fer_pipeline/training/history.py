"""What a training reports while it runs and leaves when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fer_pipeline.params.schema import Phase
    from fer_pipeline.training.precision import Precision


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
        precision: the one that the network ran in.
        seconds: of wall time, caching and measuring included; of a process that was cut off, up to
            its last checkpoint.
    """

    history: tuple[EpochRecord, ...]
    best: EpochRecord
    state: dict[str, Tensor]
    precision: Precision
    seconds: float


class Observer:
    """Base of what watches a training without changing it; this one does nothing."""

    def noted(self, name: str, value: str) -> None:
        """The training has decided something itself, such as its precision."""

    def resumed(self, history: Sequence[EpochRecord]) -> None:
        """The training goes on after these epochs of a process that was killed."""

    def caching_started(self, images: int) -> None:
        """Features of so many images are about to be computed."""

    def epoch_started(self, phase: Phase, epoch: int, epochs: int, images: int) -> None:
        """An epoch over so many images begins; `epochs` is the number of all."""

    def batch_done(self, images: int) -> None:
        """So many more images of the current epoch or caching are done."""

    def epoch_done(self, record: EpochRecord) -> None:
        """An epoch has been validated; its checkpoint may still be being written."""

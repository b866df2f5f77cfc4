"""What a person sees of long work: a bar while it runs, and one line for each finished epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from fer_pipeline.events import emit
from fer_pipeline.training.history import EpochRecord, Observer

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Phase


class TrainingProgress(Observer):
    """An observer that draws; where the output is no terminal, only the lines remain."""

    def __init__(
        self,
        backbone: str,
        on_epoch: Callable[[EpochRecord], None],
        on_note: Callable[[str, str], None],
    ) -> None:
        self._backbone = backbone
        self._on_epoch = on_epoch
        self._on_note = on_note
        self._progress = _bar()
        self._task: TaskID | None = None
        self._epochs = 0

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def noted(self, name: str, value: str) -> None:
        self._on_note(name, value)

    def resumed(self, history: Sequence[EpochRecord]) -> None:
        for record in history:  # the killed process may not have come to log its last
            self._on_epoch(record)

    def caching_started(self, images: int) -> None:
        self._start("features", images)

    def epoch_started(self, phase: Phase, epoch: int, epochs: int, images: int) -> None:
        self._epochs = epochs
        self._start(f"{phase} {epoch}/{epochs}", images)

    def batch_done(self, images: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, images)

    def epoch_done(self, record: EpochRecord) -> None:
        emit("epoch", backbone=self._backbone, epochs=self._epochs, **asdict(record))
        self._progress.console.print(
            f"{self._backbone} {record.phase:8} {record.epoch:>3}/{self._epochs}"
            f"  loss {record.train_loss:.3f}  val {record.val_accuracy:6.2%}"
            f"  {record.images_per_s:7.1f} images/s",
            highlight=False,
            soft_wrap=True,
        )
        self._on_epoch(record)

    def _start(self, work: str, images: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(f"{self._backbone} {work}", total=images)


@contextmanager
def image_bar(label: str, images: int) -> Iterator[Callable[[int], None]]:
    """A bar over images; gives the function that advances it."""
    with _bar() as progress:
        task = progress.add_task(label, total=images)
        yield lambda count: progress.advance(task, count)


@contextmanager
def bytes_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar over a download, shown once there is one; gives the function that advances it."""
    with _bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        task: TaskID | None = None

        def advance(done: int, total: int | None) -> None:
            nonlocal task
            if task is None:
                task = progress.add_task(label, total=total)
            progress.update(task, completed=done, total=total)

        yield advance


def _bar(*figures: ProgressColumn) -> Progress:
    console = Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *(figures or (MofNCompleteColumn(),)),
        TimeRemainingColumn(),
        console=console,
        # A bar that can't be redrawn would leave one stray line per stage in a log file.
        disable=not console.is_terminal,
        transient=True,
    )

"""What a person sees of long work: a bar or lines while it runs, and one line for each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from fer_pipeline.events import emit
from fer_pipeline.training.history import EpochRecord, Observer

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Phase
    from fer_pipeline.registry.runs import RunLog

LINE_EVERY_S = 30.0
"""How often a line says how far work is, where the output is no terminal."""


class Bar(Progress):
    """A bar; where the output is no terminal, and it can't be redrawn, a line now and then."""

    def __init__(self, *figures: ProgressColumn, stderr: bool = False) -> None:
        console, label = Console(stderr=stderr), TextColumn("{task.description}")
        columns = (label, BarColumn(), *(figures or [MofNCompleteColumn()]), TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._said = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._say(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        if self.console.is_terminal or time.monotonic() < self._said + LINE_EVERY_S:
            return
        self._said = time.monotonic()
        task = self._tasks[task_id]
        shown = (one.render(task) for one in self.columns if isinstance(one, ProgressColumn))
        texts = [one.plain for one in shown if isinstance(one, Text)]  # not the bar itself
        self.console.print("  ".join(texts), highlight=False, soft_wrap=True)


class ImagesPerSecond(ProgressColumn):
    """How fast it goes."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class TrainingProgress(Observer):
    """An observer that shows a training on a bar, prints its epochs and logs them.

    Args:
        bar: where the current epoch is shown.
        run: the MLflow run to log to.
        backbone: what is trained.
    """

    def __init__(self, bar: Progress, run: RunLog, backbone: str) -> None:
        self._progress, self._run, self._backbone = bar, run, backbone
        self._task = bar.add_task(backbone, visible=False)
        self._epochs, self._best = 0, 0.0

    def noted(self, name: str, value: str) -> None:
        self._run.tags({f"fer.{name}": value})

    def resumed(self, history: Sequence[EpochRecord]) -> None:
        for record in history:  # the killed process may not have come to log its last
            self._log(record)

    def caching_started(self, images: int) -> None:
        self._start("features", images)

    def epoch_started(self, phase: Phase, epoch: int, epochs: int, images: int) -> None:
        self._epochs = epochs
        self._start(f"{phase} {epoch}/{epochs}", images)

    def batch_done(self, images: int) -> None:
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
        self._log(record)

    def _log(self, record: EpochRecord) -> None:
        self._best = max(self._best, record.val_accuracy)
        values = {key: value for key, value in asdict(record).items() if key != "phase"}
        self._run.metrics({**values, "best_val_accuracy": self._best}, record.epoch)

    def _start(self, work: str, images: int) -> None:
        said = f"{self._backbone} {work}"
        self._progress.reset(self._task, total=images, description=said, visible=True)


@contextmanager
def image_bar(
    label: str, images: int | None, *, stderr: bool = False
) -> Iterator[Callable[[int], None]]:
    """A bar over images, perhaps of an unknown number; gives the function that advances it.

    On standard error it does not mix with results.
    """
    with Bar(MofNCompleteColumn(), ImagesPerSecond(), stderr=stderr) as progress:
        task = progress.add_task(label, total=images)
        yield lambda count: progress.advance(task, count)


@contextmanager
def bytes_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar over a download, shown once there is one; gives the function that advances it."""
    with Bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(label, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)

"""One stage of the graph as a Prefect task: `dvc repro --single-item` in a process."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from fer_pipeline.errors import FerError, FlowError, StoppedError
from flows.artifacts import Progress
from flows.graph import Stage
from flows.process import Outcome
from flows.session import Session
from flows.slots import Slot, acquire_slot
from flows.supervise import DEADLINE_STATUS

_RAN = re.compile(r"Running stage '")
_LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
"""What DVC prints when another of its processes works with the same files."""


@dataclass
class StageRunner:
    """Runs the stages of one flow run.

    Attributes:
        session: of the flow run.
        slots: of this machine.
        force: run stages that are up to date, too.
        mlflow_runs: the events of the MLflow runs that stages logged to, by the runs' names.
    """

    session: Session
    slots: list[Slot]
    force: bool = False
    mlflow_runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def task(self, stage: Stage, stale: bool) -> Task[[], State[None]]:
        """The task that brings one stage up to date.

        Args:
            stage: of the graph.
            stale: whether DVC has to be asked to run it; if not, the task ends as Cached at once.
        """

        def work() -> State[None]:
            if not stale:
                return Completed(name="Cached", message="Nothing that it depends on has changed.")
            try:
                return self.session.with_retries(lambda: self._bring_up_to_date(stage))
            except StoppedError as error:
                return Cancelled(message=str(error))
            except FerError as error:
                return Failed(message=str(error))

        return task(
            name=stage.name,
            task_run_name=stage.name,
            description=stage.description,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(work)

    def _bring_up_to_date(self, stage: Stage) -> State[None]:
        if not stage.slot:
            return self._reproduce(stage)
        log, here = get_run_logger().info, self.session
        with acquire_slot(self.slots, here.name, here.processes, log) as (slot, lock):
            variables = ", ".join(f"{key}={value}" for key, value in slot.env.items())
            log(f"on {slot.name} ({variables})")
            return self._reproduce(stage, env=slot.env, locks=[lock])

    def _reproduce(self, stage: Stage, **options: Any) -> State[None]:
        progress: Progress | None = None

        def on_event(kind: str, event: dict[str, Any]) -> None:
            nonlocal progress
            if kind == "epoch":
                progress = progress or Progress(event["backbone"], get_run_logger().warning)
                progress.epoch(event)
            elif kind == "run":
                self.mlflow_runs[event["name"]] = event

        force = ["--force"] if self.force else []
        outcome = self.session.run(
            # Without --wait-for-lock DVC waits three seconds for its lock, also after the stage's
            # command has ended: a finished training could go unrecorded.
            ["dvc", "--wait-for-lock", "repro", *force, "--single-item", stage.name],
            deadline_s=stage.deadline_s,
            on_event=on_event,
            **options,
        )
        return _state(stage, outcome)


def _state(stage: Stage, outcome: Outcome) -> State[None]:
    if outcome.status == DEADLINE_STATUS and stage.deadline_s is not None:
        raise FlowError(
            f"{stage.name} was ended after its deadline of {stage.deadline_s / 3600:g} hours: "
            f"raise meta.deadline_h in dvc.yaml if it needs more"
        )
    locked = next(filter(_LOCKED.search, outcome.lines), None)
    if locked and not outcome.error:
        outcome.error, outcome.transient = locked, True
    outcome.require_success(stage.name)
    if any(map(_RAN.match, outcome.lines)):
        return Completed(message=f"{stage.name} ran.")
    return Completed(name="Cached", message="DVC found it unchanged, or took it from its cache.")

"""One stage of the graph as a Prefect task: `dvc repro --single-item` in a child process."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from fer_pipeline.errors import FerError
from flows.artifacts import Progress
from flows.commands import Outcome, execute, require_success
from flows.errors import CommandError, StoppedError
from flows.graph import Stage
from flows.process import Children
from flows.retries import with_retries
from flows.slots import Slot, hold_slot
from flows.supervise import DEADLINE_STATUS

_RAN = re.compile(r"Running stage '")
_LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
"""DVC's own words, when another of its processes is at the same files."""


@dataclass
class Run:
    """What the stages of one flow run share.

    Attributes:
        children: runs their commands.
        slots: of this machine.
        held: descriptor of the workspace's lock.
        who: the flow run's name.
        force: run stages that are up to date, too.
        mlflow: the MLflow runs that stages told of, by name.
    """

    children: Children
    slots: list[Slot]
    held: int
    who: str
    force: bool = False
    mlflow: dict[str, dict[str, Any]] = field(default_factory=dict)


def stage_task(run: Run, stage: Stage, stale: bool) -> Task[[], State[None]]:
    """The task that brings one stage up to date.

    Args:
        run: that it belongs to.
        stage: of the graph.
        stale: whether DVC has to be asked to run it; if not, the task ends as Cached at once.
    """

    def work() -> State[None]:
        if not stale:
            return Completed(name="Cached", message="Nothing that it depends on has changed.")
        try:
            return with_retries(lambda: _bring_up_to_date(run, stage), run.children.rest)
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


def _bring_up_to_date(run: Run, stage: Stage) -> State[None]:
    if not stage.slot:
        return _repro(run, stage, {}, [run.held])
    log = get_run_logger()
    with hold_slot(run.slots, run.who, lambda: run.children.stopped, log.info) as (slot, held):
        told = ", ".join(f"{key}={value}" for key, value in slot.env.items())
        log.info("on %s (%s)", slot.name, told)
        return _repro(run, stage, slot.env, [run.held, held])


def _repro(run: Run, stage: Stage, env: dict[str, str], held: list[int]) -> State[None]:
    progress: Progress | None = None

    def on_event(kind: str, event: dict[str, Any]) -> None:
        nonlocal progress
        if kind == "epoch":
            progress = progress or Progress(event["backbone"], get_run_logger().warning)
            progress.epoch(event)
        elif kind == "run":
            run.mlflow[event["name"]] = event

    force = ["--force"] if run.force else []
    outcome = execute(
        run.children,
        # Without the flag DVC gives its lock three seconds, also when it comes back after the
        # stage's command: a finished training would then go unrecorded.
        ["dvc", "--wait-for-lock", "repro", *force, "--single-item", stage.name],
        env=env,
        deadline_s=stage.deadline_s,
        held=held,
        on_event=on_event,
    )
    return _judge(stage, outcome)


def _judge(stage: Stage, outcome: Outcome) -> State[None]:
    if outcome.status == DEADLINE_STATUS and stage.deadline_s is not None:
        raise CommandError(
            f"{stage.name} was ended after its deadline of {stage.deadline_s / 3600:g} hours: "
            f"raise meta.deadline_h in dvc.yaml if it needs more"
        )
    locked = next(filter(_LOCKED.search, outcome.lines), None)
    if locked and not outcome.error:
        outcome.error, outcome.passing = locked, True
    require_success(outcome, stage.name)
    if any(map(_RAN.match, outcome.lines)):
        return Completed(message=f"{stage.name} ran.")
    return Completed(name="Cached", message="DVC found it unchanged, or took it from its cache.")

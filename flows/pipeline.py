"""The flow `pipeline`: the graph of `dvc.yaml`, its stages side by side where they can be.

Each stage is a Prefect task that runs `dvc repro --single-item` in a process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from prefect import Task, flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import params
from flows.artifacts import StageEvents, show_machines, show_results
from flows.graph import Graph, Stage, closure, downstream, parallel_slots, read_status
from flows.session import Session, run_in_session
from flows.slots import Slot, acquire_slot, machine_slots
from flows.workers import POOL, Workers, find_workers

# A cast, because Prefect declares its futures invariant.
RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=64))
"""Threads in which tasks wait for their parents: more than any graph has stages."""

_DVC = Path(__file__).with_name("dvc_command.py")


def _run_name() -> str:
    return params.describe_run(flow_run.parameters)


@flow(name="pipeline", task_runner=RUNNER, flow_run_name=_run_name)
def pipeline(
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    targets: list[str] | None = None,
    force: bool = False,
    folder: Path = Path(),
    wait_for_workspace_s: float = 60.0,
    where: Literal["here", "workers"] = "here",
    pool: str = POOL,
) -> State[None]:
    """Bring the graph up to date: the same as `dvc repro`, with the trainings in parallel.

    Args:
        recipe: a name in recipes/ to put in place of params.yaml first; none keeps it.
        overrides: values for params.yaml by dotted key, such as {"seed": 1}.
        targets: stages to bring up to date with what they need, such as ["evaluate"]; all if
            empty. "train" names every training.
        force: run stages that are up to date, too.
        folder: of dvc.yaml.
        wait_for_workspace_s: how long to wait for another run in the same folder.
        where: the stages that take a slot run: in this folder, or wherever the workers are.
        pool: the work pool of these workers; `meta.pool` of a stage names another.
    """

    def work(here: Session) -> State[None]:
        with here.exclusive():
            if params.apply(folder, recipe, overrides or {}):
                get_run_logger().info(params.describe(recipe, overrides or {}))
            return run_graph(here, targets or [], force, pool if where == "workers" else None)

    return run_in_session(work, folder, wait_for_workspace_s)


Turn = Callable[[str], AbstractContextManager[object]]
"""Holds others off a stage, by its name, as long as the block runs."""


def run_graph(
    here: Session,
    targets: Sequence[str],
    force: bool,
    pool: str | None = None,
    turns: Callable[[Graph], Turn] | None = None,
) -> State[None]:
    """Run a folder's stages, each after its parents; gives the state that the flow ends in.

    Args:
        here: the session of the flow run.
        targets: stages to bring up to date, with what they need; all if empty.
        force: run stages that are up to date, too.
        pool: the work pool whose workers run the stages that take a slot; None runs them here.
        turns: keeps apart what other graphs of this process want to run, too.

    Raises:
        FlowError: there is no usable graph, or no such stage in it, or no way to the workers.
        StoppedError: the run was cancelled while another DVC command was in its way.
    """
    status = here.when_free(lambda: read_status(here.folder))
    wanted = closure(status.graph, targets)
    stale = wanted if force else downstream(status.graph, status.changed & wanted)
    workers = None
    if pool and stale:
        stages = [status.graph[name] for name in stale]
        workers = find_workers(here, stages, pool, remote=status.remote, force=force)
    runner = StageRunner(here, machine_slots(parallel_slots(status.graph)), force, workers)
    if turns:
        runner.turn = turns(status.graph)
    graph = {name: stage for name, stage in status.graph.items() if name in wanted}
    states = _run_all(runner, graph, stale)
    if workers and (differ := show_machines(here.folder)):
        get_run_logger().warning(differ)
    gate = ""
    # Otherwise the results that lie there are of an earlier run.
    if len(graph) == len(status.graph) and all(state.is_completed() for state in states.values()):
        gate = show_results(here.folder, runner.events.mlflow_runs)
    return _summary(states, gate)


def _run_all(runner: StageRunner, graph: Graph, stale: set[str]) -> dict[str, State[Any]]:
    futures: dict[str, PrefectFuture[Any]] = {}
    for name, stage in graph.items():
        parents = [futures[parent] for parent in stage.parents]
        work = runner.task(stage, name in stale)
        futures[name] = work.submit(return_state=False, wait_for=parents)
    wait(list(futures.values()))
    return {name: future.state for name, future in futures.items()}


def _summary(states: dict[str, State[Any]], gate: str) -> State[None]:
    failed = [state for state in states.values() if state.is_failed() or state.is_crashed()]
    if failed:
        waiting = [name for name, state in states.items() if not state.is_final()]
        rest = f" (not run: {', '.join(waiting)})" if waiting else ""
        return Failed(message="; ".join(str(state.message) for state in failed) + rest)
    cached = sum(state.name == "Cached" for state in states.values())
    name, text = "Completed", f"{len(states) - cached} stages ran, {cached} were up to date."
    if cached == len(states):
        name, text = "Unchanged", "Everything is up to date."
    return Completed(name=name, message=f"{text} {gate}".strip())


@dataclass
class StageRunner:
    """Runs the stages of one flow run.

    Attributes:
        session: of the flow run.
        slots: of this machine.
        force: run stages that are up to date, too.
        workers: who runs the stages that take a slot; None runs them here.
        turn: held while a stage runs.
        events: what stages tell.
    """

    session: Session
    slots: list[Slot]
    force: bool = False
    workers: Workers | None = None
    turn: Turn = nullcontext
    events: StageEvents = field(default_factory=StageEvents)

    def task(self, stage: Stage, stale: bool) -> Task[[], State[None]]:
        """The task that brings one stage up to date.

        Args:
            stage: of the graph.
            stale: whether DVC has to be asked to run it; if not, the task ends as Cached at once.
        """

        def work() -> State[None]:
            if not stale:
                return Completed(name="Cached", message="Nothing that it depends on has changed.")
            with self.turn(stage.name):
                return self._bring_up_to_date(stage)

        return self.session.task(stage.name, work, stage.description)

    def _bring_up_to_date(self, stage: Stage) -> State[None]:
        if not stage.meta.slot:
            return self._reproduce(stage)
        if self.workers:
            return self._send(stage, self.workers)
        log, here = get_run_logger().info, self.session
        with acquire_slot(self.slots, here.name, here.processes, log) as (slot, lock):
            variables = ", ".join(f"{key}={value}" for key, value in slot.env.items())
            log(f"on {slot.name} ({variables})")
            return self._reproduce(stage, env=slot.env, locks=[lock])

    def _send(self, stage: Stage, workers: Workers) -> State[None]:
        result = workers.run(stage)
        self.events.mlflow_runs.update(result.mlflow_runs)
        return _done(result.ran, f"{stage.name} ran on a worker.")

    def _reproduce(self, stage: Stage, **options: Any) -> State[None]:
        force = ["--force"] if self.force else []
        outcome = self.session.run(
            # -P: the folder of that file holds modules whose names libraries may use.
            [sys.executable, "-P", str(_DVC), "repro", *force, "--single-item", stage.name],
            deadline_s=stage.meta.deadline_s,
            on_event=self.events.take,
            **options,
        )
        return _done(outcome.stage_ran(stage.name, stage.meta.deadline_s), f"{stage.name} ran.")


def _done(ran: bool, message: str) -> State[None]:
    if ran:
        return Completed(message=message)
    return Completed(name="Cached", message="DVC found it unchanged, or took it from its cache.")

"""The flow `pipeline`: the graph of `dvc.yaml`, its stages side by side where they can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import params
from flows.artifacts import show_results
from flows.graph import Graph, closure, downstream, parallel_slots, read_status
from flows.session import Session, run_in_session
from flows.slots import machine_slots
from flows.tasks import StageRunner

# A cast, because Prefect declares its futures invariant.
RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=64))
"""Threads in which tasks wait for their parents: more than any graph has stages."""


@flow(name="pipeline", task_runner=RUNNER)
def pipeline(
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    targets: list[str] | None = None,
    force: bool = False,
    folder: Path = Path(),
    wait_for_workspace_s: float = 60.0,
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
    """

    def work(here: Session) -> State[None]:
        with here.exclusive():
            if params.apply(folder, recipe, overrides or {}):
                get_run_logger().info("params.yaml: recipe %s, values %s", recipe, overrides or {})
            return run_graph(here, targets or [], force)

    return run_in_session(work, folder, wait_for_workspace_s)


def run_graph(here: Session, targets: Sequence[str], force: bool) -> State[None]:
    """Run a folder's stages, each after its parents; gives the state that the flow ends in.

    Args:
        here: the session of the flow run.
        targets: stages to bring up to date, with what they need; all if empty.
        force: run stages that are up to date, too.

    Raises:
        FlowError: there is no usable graph, or no such stage in it.
        StoppedError: the run was cancelled while another DVC command was in its way.
    """
    status = here.when_free(lambda: read_status(here.folder))
    wanted = closure(status.graph, targets)
    stale = wanted if force else downstream(status.graph, status.changed & wanted)
    runner = StageRunner(here, machine_slots(parallel_slots(status.graph)), force)
    graph = {name: stage for name, stage in status.graph.items() if name in wanted}
    states = _run_all(runner, graph, stale)
    if len(graph) == len(status.graph) and all(state.is_completed() for state in states.values()):
        show_results(here.folder, runner.mlflow_runs)  # else they are of an earlier run
    return _summary(states)


def _run_all(runner: StageRunner, graph: Graph, stale: set[str]) -> dict[str, State[Any]]:
    futures: dict[str, PrefectFuture[Any]] = {}
    for name, stage in graph.items():
        parents = [futures[parent] for parent in stage.parents]
        task = runner.task(stage, name in stale)
        futures[name] = task.submit(return_state=False, wait_for=parents)
    wait(list(futures.values()))
    return {name: future.state for name, future in futures.items()}


def _summary(states: dict[str, State[Any]]) -> State[None]:
    failed = [state for state in states.values() if state.is_failed() or state.is_crashed()]
    if failed:
        waiting = [name for name, state in states.items() if not state.is_final()]
        rest = f" (not run: {', '.join(waiting)})" if waiting else ""
        return Failed(message="; ".join(str(state.message) for state in failed) + rest)
    cached = sum(state.name == "Cached" for state in states.values())
    if cached == len(states):
        return Completed(name="Unchanged", message="Everything is up to date.")
    return Completed(message=f"{len(states) - cached} stages ran, {cached} were up to date.")

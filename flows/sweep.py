"""The flow `sweep`: the graph for many combinations of params, side by side, as DVC experiments.

Each combination is a flow run of its own, in a tree of its own. What several have in common runs
once, and DVC's run-cache gives it to the others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any, Literal

import pandas as pd
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from ruamel.yaml import YAML

from fer_pipeline.errors import FlowError
from fer_pipeline.files import whole_file
from fer_pipeline.paths import DVC_LOCK, PARAMS
from flows import experiments, params
from flows.experiments import Combination, as_table, combine, read_row
from flows.graph import Graph
from flows.orders import commit_to_send, travelling_files
from flows.pipeline import RUNNER, Turn, run_graph
from flows.process import POLL_S
from flows.session import Session, run_in_session
from flows.slots import machine_slots, require_lock
from flows.trees import git, prepare_tree, tree_of
from flows.workers import POOL

_LOCK = Path(".dvc/tmp/fer-sweep.lock")
_WAIT_S = 60.0
"""How long a tree is waited for, in which a killed sweep's commands are ending."""

PICK_BY_VAL = (
    "Whoever picks one picks by val (PublicTest): the best of many on test has fitted to it."
)

_ON_WORKERS = 16
"""Combinations at once where workers run their trainings."""


def _run_name() -> str:
    asked = flow_run.parameters
    varied = ", ".join(f"{len(listed)} x {key}" for key, listed in asked["values"].items())
    return f"{varied} at {params.commit(Path(asked.get('folder') or '.'))}"


@flow(name="sweep", task_runner=RUNNER, flow_run_name=_run_name)
def sweep(
    values: dict[str, list[Any]],
    recipe: str | None = None,
    output: Path | None = None,
    folder: Path = Path(),
    where: Literal["here", "workers"] = "here",
    pool: str = POOL,
) -> State[None]:
    """Run the graph for every combination of values, and compare them.

    Nothing becomes a version, and the project's own files stay as they are. What an earlier run of
    the same sweep has finished is not run again.

    Args:
        values: of params by dotted key, such as {"seed": [0, 1, 2]}.
        recipe: a name in recipes/ to start from; none starts from params.yaml.
        output: a CSV file for the table.
        folder: of dvc.yaml.
        where: the stages that take a slot run: on this machine, or wherever the workers are.
        pool: the work pool of these workers.
    """

    def work(here: Session) -> State[None]:
        commit, files = commit_to_send(folder), travelling_files(folder)
        _require_identity(folder)
        wanted = combine(folder, recipe, values, commit, files)
        with require_lock(folder / _LOCK, here.name, folder):
            runner = SweepRunner(here, commit, pool if where == "workers" else None)
            faults = runner.run(wanted)
        here.processes.wait(0)
        return _conclude(folder, wanted, faults, output)

    return run_in_session(work, folder)


def _require_identity(folder: Path) -> None:
    """
    Raises:
        FlowError: git knows no author, without whom DVC saves no experiment.
    """
    for role in ("AUTHOR", "COMMITTER"):
        if git(folder, "-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT").returncode:
            raise FlowError(
                f"experiments are commits, and git knows no {role.lower()}: run 'git config "
                f"--global user.name NAME' and 'git config --global user.email ADDRESS'"
            )


def _conclude(
    folder: Path, wanted: Sequence[Combination], faults: Mapping[str, str], output: Path | None
) -> State[None]:
    rows = [read_row(folder, one, faults.get(one.name, "")) for one in wanted]
    groups = experiments.summarize(wanted, rows)
    if output:
        with whole_file(output) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False)
    said = " ".join(group.sentence for group in groups)
    table = as_table([*rows, *(line for group in groups for line in group.lines)])
    create_table_artifact(
        table.to_dict("records"), key="fer-sweep", description=f"{said} {PICK_BY_VAL}".strip()
    )
    get_run_logger().info("\n%s\n%s", table.to_string(index=False), PICK_BY_VAL)
    failed = [f"{row['experiment']}: {row['error']}" for row in rows if "error" in row]
    if failed:
        return Failed(message=f"{len(failed)} of {len(rows)} failed: {'; '.join(failed)}")
    return Completed(message=said)


@dataclass
class SweepRunner:
    """Runs the combinations of one sweep.

    Attributes:
        here: the session of the sweep.
        commit: of the code, in full.
        pool: the work pool for stages that take a slot; None runs them here.
        sessions: of the combinations that have begun.
    """

    here: Session
    commit: str
    pool: str | None
    sessions: list[Session] = field(default_factory=list)
    _turns: dict[str, Lock] = field(default_factory=dict)
    _git: Lock = field(default_factory=Lock)

    def run(self, wanted: Sequence[Combination]) -> dict[str, str]:
        """Run what is not done yet; gives why combinations failed, by their names."""
        log = get_run_logger().info
        done = self._done()
        left = [one for one in wanted if one.name not in done]
        log("%d combinations, of which %d are done", len(wanted), len(wanted) - len(left))
        at_once = Semaphore(_ON_WORKERS if self.pool else 1 + len(machine_slots(2)))
        futures = {}
        try:
            for one in left:  # each begins after those before it
                _acquire(at_once, self.here)
                futures[one.name] = self.here.task(one.name, self._work(one, at_once)).submit()
            wait(list(futures.values()))
        finally:
            for session in self.sessions:
                session.processes.close()
        states = {name: future.state for name, future in futures.items()}
        return {
            name: str(state.message) for name, state in states.items() if not state.is_completed()
        }

    def _done(self) -> set[str]:
        """The names of the experiments that there are of this commit."""
        listed = git(self.here.folder, "for-each-ref", "--format=%(refname)", self._ref(""))
        return {ref.rpartition("/")[2] for ref in listed.stdout.split()}

    def _ref(self, name: str) -> str:
        """DVC's reference for an experiment."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}/{name}"

    def _work(self, one: Combination, at_once: Semaphore) -> Callable[[], State[None]]:
        tree, parent = tree_of(self.here.folder, f"sweep-{one.name}"), self.here.run_id

        @flow(name="combination", flow_run_name=one.name, task_runner=RUNNER)
        def combination() -> State[None]:
            def work(session: Session) -> State[None]:
                self.sessions.append(session)
                self.here.processes.wait(0)  # it may have ended before it could end this one
                return self._bring_up_to_date(session, one)

            return run_in_session(work, tree, _WAIT_S, parent=parent)

        def work() -> State[None]:
            try:
                state: State[Any] = combination(return_state=True)
            finally:
                at_once.release()
            if not state.is_completed():
                raise FlowError(str(state.message))
            return Completed(message=state.message)

        return work

    def _bring_up_to_date(self, session: Session, one: Combination) -> State[None]:
        tree, session.processes.env["DVC_EXP_NAME"] = session.folder, one.name
        if not (tree / ".dvc").is_dir():
            prepare_tree(self.here.folder, tree, self.commit, one.files)
        with session.exclusive():
            lock = tree / DVC_LOCK  # an earlier run's own, else the project's
            known = {str(DVC_LOCK): lock.read_text(encoding="utf-8")} if lock.exists() else {}
            prepare_tree(self.here.folder, tree, self.commit, {**one.files, **known})
            if known:
                session.run(["dvc", "checkout", "--quiet", "--force", "--allow-missing"])
            state = run_graph(
                session, [], False, self.pool, lambda graph: self._turn(session, graph, one)
            )
            if not state.is_completed():
                return state
            self._save(session, one)
        shutil.rmtree(tree, ignore_errors=True)
        return state

    def _turn(self, session: Session, graph: Graph, one: Combination) -> Turn:
        keys = stage_keys(graph, YAML(typ="safe").load(one.files[str(PARAMS)]))
        return lambda name: _held(self._turns.setdefault(keys[name], Lock()), session)

    def _save(self, session: Session, one: Combination) -> None:
        """Make what lies in the tree an experiment of the project.

        Raises:
            FlowError: DVC or git can't.
        """
        save = ["dvc", "exp", "save", "--force", "--name", one.name]
        session.run(save).require_success("dvc exp save")
        ref, project = self._ref(one.name), str(self.here.folder.resolve())
        fetch = ["git", "-C", project, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head"]
        with self._git:
            command = [*fetch, str(session.folder), f"+{ref}:{ref}"]
            session.run(command).require_success("git fetch")


def stage_keys(graph: Graph, values: Mapping[str, Any]) -> dict[str, str]:
    """A digest of all that decides a stage's outs, at one commit and source, by its name.

    Args:
        graph: of the project.
        values: of `params.yaml`.
    """
    keys: dict[str, str] = {}
    for name, stage in graph.items():
        own = [_value(values, key) for key in stage.params]
        content = [name, own, [keys[parent] for parent in stage.parents]]
        keys[name] = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
    return keys


def _value(values: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


@contextmanager
def _held(lock: Lock, session: Session) -> Iterator[None]:
    _acquire(lock, session)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: Lock | Semaphore, session: Session) -> None:
    """Wait for a lock, but not beyond the end of the run.

    Raises:
        StoppedError: the run is ending.
    """
    while not lock.acquire(timeout=POLL_S):
        session.processes.wait(0)

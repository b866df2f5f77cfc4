"""The stages of `dvc.yaml` as DVC sees them: which need which, and which are out of date."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Self

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage.exceptions import StageFileDoesNotExistError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fer_pipeline.errors import DvcBusyError, FlowError, one_line

_ALONE = Lock()
"""Held while DVC reads in this process: nobody has made it for several threads."""


class Meta(BaseModel):
    """`meta` of a stage in dvc.yaml, which DVC itself neither checks nor reads.

    Attributes:
        slot: whether the stage takes a training slot while it runs.
        deadline_h: hours after which it is ended, or None.
        pool: the work pool whose workers run it, in place of the run's, if it takes a slot.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    slot: bool = False
    deadline_h: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    pool: str | None = None

    @model_validator(mode="after")
    def _pool_needs_slot(self) -> Self:
        if self.pool is not None and not self.slot:
            raise ValueError("only a stage with 'slot: true' is sent to a pool")
        return self

    @property
    def deadline_s(self) -> float | None:
        return self.deadline_h and 3600 * self.deadline_h


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: as DVC addresses it, such as `train@resnet50`.
        parents: the stages whose outs it reads.
        meta: how it runs.
        description: `desc` of dvc.yaml.
        inputs: DVC's hash of each dep, by path, or empty; of stages that take a slot.
        params: the dotted keys of `params.yaml` that it depends on.
    """

    name: str
    parents: tuple[str, ...] = ()
    meta: Meta = field(default_factory=Meta)
    description: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    params: tuple[str, ...] = ()


Graph = Mapping[str, Stage]
"""Stages by name, each after its parents."""


@dataclass(frozen=True)
class GraphStatus:
    """The graph and what is out of date in it, at one moment.

    Attributes:
        graph: all stages.
        changed: names of those that are out of date, without the stages that follow from them.
        remote: whether there is a default remote to push to.
    """

    graph: Graph
    changed: frozenset[str]
    remote: bool


def read_status(folder: Path) -> GraphStatus:
    """Ask DVC, in this process: starting its command would take seconds.

    Raises:
        FlowError: the folder has no usable DVC project.
        DvcBusyError: a DVC command runs there.
    """
    if not (folder / "dvc.yaml").exists():
        raise FlowError(f"{folder.resolve()} has no dvc.yaml: give the project's folder")
    try:
        # Resolved, or links in its path are in the names.
        with _ALONE, Repo(str(folder.resolve())) as repo:
            found = repo.index.graph
            names = {stage: _name(stage, folder) for stage in found if stage.cmd}
            stages = {}
            for stage, name in names.items():
                parents = sorted(names[one] for one in found.successors(stage) if one.cmd)
                meta = _meta(stage, name)
                inputs = hashes(stage) if meta.slot else {}
                keys = [dep.params for dep in stage.deps if isinstance(dep, ParamsDependency)]
                said = (stage.desc or "", inputs, tuple(sorted(chain.from_iterable(keys))))
                stages[name] = Stage(name, tuple(parents), meta, *said)
            status = repo.status()
            changed = frozenset(name for stage, name in names.items() if stage.addressing in status)
            remote = bool(repo.config["core"].get("remote"))
    except LockError as error:
        raise DvcBusyError(folder) from error
    except (DvcException, StageFileDoesNotExistError) as error:
        raise FlowError(f"DVC can't read the graph: {_reason(error)}") from error
    order = TopologicalSorter({name: stage.parents for name, stage in stages.items()})
    graph = {name: stages[name] for name in order.static_order()}
    return GraphStatus(graph, changed, remote)


def hashes(stage: Any) -> dict[str, str]:
    """DVC's hash of each dep, params aside, by its path; empty where there is none."""
    files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    return {str(dep.def_path): str(dep.get_hash().value) if dep.exists else "" for dep in files}


def closure(graph: Graph, targets: Sequence[str]) -> set[str]:
    """The stages that the targets need, and the targets; all if none are named.

    Args:
        graph: of the project.
        targets: names of stages, or of a group: `train` is every `train@...`.

    Raises:
        FlowError: there is no such stage.
    """
    if not targets:
        return set(graph)
    wanted: set[str] = set()
    for target in targets:
        named = {name for name in graph if name == target or name.startswith(f"{target}@")}
        if not named:
            raise FlowError(f"there is no stage '{target}': choose among {', '.join(graph)}")
        wanted |= named
    for name in reversed(list(graph)):
        if name in wanted:
            wanted.update(graph[name].parents)
    return wanted


def downstream(graph: Graph, changed: Collection[str]) -> set[str]:
    """The changed stages and all that follow from them."""
    stale = set(changed)
    for name, stage in graph.items():
        if stale.intersection(stage.parents):
            stale.add(name)
    return stale


def parallel_slots(graph: Graph) -> int:
    """How many stages that take a slot could run at the same time."""
    depth: dict[str, int] = {}
    for name, stage in graph.items():
        depth[name] = 1 + max((depth[parent] for parent in stage.parents), default=0)
    levels = Counter(depth[name] for name, stage in graph.items() if stage.meta.slot)
    return max(levels.values(), default=1)


def _name(stage: Any, folder: Path) -> str:
    """The name for commands in the folder; DVC's own names are relative to the working folder."""
    file = os.path.relpath(stage.path, folder.resolve())
    return str(stage.name) if file == "dvc.yaml" else f"{file}:{stage.name}"


def _meta(stage: Any, name: str) -> Meta:
    try:
        return Meta.model_validate(stage.meta or {})
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(["meta", *map(str, fault["loc"])])
        raise FlowError(
            f"dvc.yaml: {key} of {name} is {fault['input']!r}: {fault['msg']} (known are "
            f"{', '.join(Meta.model_fields)})"
        ) from None


def _reason(error: BaseException) -> str:
    """DVC's message on one line, without the file's text that some messages have below it."""
    first = str(error).strip().partition("\n")[0]
    return one_line(error) if first.endswith(":") else first or type(error).__name__

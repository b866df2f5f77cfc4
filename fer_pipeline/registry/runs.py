"""MLflow runs: one per training, one per fusion, one each time new faces are scored."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
)
from sqlalchemy.exc import SQLAlchemyError

from fer_pipeline.errors import ParamsError, one_line
from fer_pipeline.events import emit
from fer_pipeline.params.load import load_params
from fer_pipeline.paths import PARAMS, RECIPES, TEST, TRAIN, VAL, project_folder
from fer_pipeline.provenance import file_sha256, git_state
from fer_pipeline.registry.tracking import (
    Tracking,
    is_missing,
    mlflow_errors,
    shown_address,
    storage_errors,
)

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)

PLACE_VARIABLE = "FER_PLACE"
"""Names the folder whose results a stage makes, where a worker runs it for another folder."""

KEY_TAG = "fer.key"
"""Tag of a run: the digest of what decides its result, by which an unfinished run is found."""

DIGEST_LENGTH = 32
"""How many of the 64 digits of a sha256 name a data set: MLflow keeps 36 characters."""

MOST_IN_A_BATCH = 1000
"""The number of metrics that MLflow takes at once."""

_INPUT_TRIES = 5

_TRAINED_ON = {TRAIN: "training", VAL: "validation"}
_FUSED_ON = {VAL: "validation", TEST: "testing"}


@dataclass(frozen=True)
class RunLog:
    """An open run to write to.

    Attributes:
        steps: those that the run has metrics of, with the value of the first by name.
        missed: metrics that the store did not take.
    """

    client: MlflowClient
    run_id: str
    steps: dict[int, float] = field(default_factory=dict)
    missed: list[Metric] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log the metrics of a step, unless a process that was killed has logged the same.

        A store that fails stops no work: what it missed is logged when the run ends.
        """
        first = values[min(values)]
        if self.steps.get(step) == first:
            return
        self.steps[step] = first
        now_ms = int(time.time() * 1000)
        batch = [Metric(key, value, now_ms, step) for key, value in values.items()]
        if not self.missed:
            try:
                self.client.log_batch(self.run_id, metrics=batch)
                return
            except (MlflowException, SQLAlchemyError) as error:
                log.warning("MLflow failed (%s): the rest is logged at the end", one_line(error))
        self.missed.extend(batch)

    def catch_up(self) -> None:
        """Log what the store missed, unless it has it: an answer may have been lost on its way."""
        there = logged_steps(self.client, self.run_id) if self.missed else {}
        missed = [one for one in self.missed if there.get(one.step) != self.steps[one.step]]
        for start in range(0, len(missed), MOST_IN_A_BATCH):
            batch = missed[start : start + MOST_IN_A_BATCH]
            self.client.log_batch(self.run_id, metrics=batch)

    def params(self, values: Mapping[str, object]) -> None:
        batch = [Param(key, str(value)) for key, value in values.items()]
        self.client.log_batch(self.run_id, params=batch)

    def tags(self, values: Mapping[str, str]) -> None:
        batch = [RunTag(key, value) for key, value in values.items()]
        self.client.log_batch(self.run_id, tags=batch)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file.

        Raises:
            RegistryError: the artifact store refused.
        """
        with storage_errors(f"{path} could not be stored with the run"):
            self.client.log_artifact(self.run_id, str(path), folder)


@contextmanager
def open_run(
    tracking: Tracking,
    name: str,
    inputs: Mapping[str, object],
    *,
    tags: Mapping[str, str] | None = None,
    splits: Mapping[Path, str] | None = None,
    once: bool = False,
) -> Iterator[RunLog]:
    """A run that ends as FINISHED, FAILED or KILLED with the block.

    A run that a killed process left open is continued, if it had the same inputs in the same
    workspace: however often a stage is interrupted, it leaves one run.

    Args:
        name: shown in the UI, with recipe, seed and commit.
        inputs: everything that decides the result; not logged, only compared. Of a run with
            `data` among them, which is a training, the machine is watched.
        tags: for the run.
        splits: prepared files that are its data sets, and as what; those that trainings and
            fusions read if left out.
        once: whether a run that ended is continued as well.
    """
    with mlflow_errors(tracking.uri):
        run_id = _start_run(tracking, name, inputs, once=once)
        run = RunLog(tracking.client, run_id, logged_steps(tracking.client, run_id))
        run.tags(tags or {})
        is_training = "data" in inputs
        if splits is None:
            splits = _TRAINED_ON if is_training else _FUSED_ON
        _log_data(tracking.client, run_id, splits)
        emit("run", name=name, run_id=run_id, uri=shown_address(tracking.uri))
        try:
            with _system_metrics(tracking.uri, run_id) if is_training else nullcontext():
                yield run
            run.catch_up()
            tracking.client.set_terminated(run_id, "FINISHED")
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            try:
                tracking.client.set_terminated(run_id, status)
            except MlflowException as second:  # of a dead server: it must not hide the first
                log.warning("run %s is not marked %s: %s", run_id, status, one_line(second))
            raise


def _start_run(tracking: Tracking, name: str, inputs: Mapping[str, object], *, once: bool) -> str:
    """The id of the run that a process of the same inputs left, else of a new one."""
    key, commit = _run_key(name, inputs), git_state().commit
    wanted = f"tags.`{KEY_TAG}` = '{key}'" + ("" if once else " and attributes.status = 'RUNNING'")
    found = tracking.client.search_runs([tracking.experiment_id], wanted, max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        tracking.client.update_run(run_id, "RUNNING")
        return run_id
    tags = {MLFLOW_RUN_NAME: _label(name, commit), KEY_TAG: key, MLFLOW_GIT_COMMIT: commit}
    return str(tracking.client.create_run(tracking.experiment_id, tags=tags).info.run_id)


def _label(name: str, commit: str) -> str:
    """Such as `resnet50 paper seed 0 64272e3`."""
    try:
        params = load_params(PARAMS)
    except ParamsError:
        return f"{name} {commit[:7]}"
    return f"{name} {recipe_name(params, RECIPES)} seed {params.seed} {commit[:7]}"


def recipe_name(params: Params, recipes: Path) -> str:
    """The recipe whose values these are, whatever its comments; `custom` where there is none."""
    for path in sorted(recipes.glob("*.yaml")):
        try:
            if load_params(path) == params:
                return path.stem
        except ParamsError:
            continue  # a broken recipe is not what was run
    return "custom"


def logged_steps(client: MlflowClient, run_id: str) -> dict[int, float]:
    """The steps that a run has metrics of, and the first by name; not those of the machine."""
    names = [key for key in client.get_run(run_id).data.metrics if not key.startswith("system/")]
    history = client.get_metric_history(run_id, min(names)) if names else []
    return {metric.step: metric.value for metric in history}


def _run_key(name: str, inputs: Mapping[str, object]) -> str:
    here = f"{socket.gethostname()}:{project_folder().resolve()}"
    place = os.environ.get(PLACE_VARIABLE) or here
    text = json.dumps([name, place, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _log_data(client: MlflowClient, run_id: str, splits: Mapping[Path, str]) -> None:
    """Log the prepared splits that are here as data set inputs of a run, by their sha256."""
    inputs = []
    for path, context in splits.items():
        if path.exists():
            sha256 = file_sha256(path)
            source = json.dumps({"uri": path.as_posix(), "sha256": sha256})
            data = Dataset(path.name, sha256[:DIGEST_LENGTH], "local", source)
            inputs.append(DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, context)]))
    for tries_left in reversed(range(_INPUT_TRIES if inputs else 0)):
        try:
            client.log_inputs(run_id, inputs)
            return
        except MlflowException as error:
            # MLflow looks for the data set, then inserts it: trainings that begin together on
            # several machines do so at once, and one finds the other's row there.
            if not tries_left or "unique constraint" not in str(error).lower():
                raise


@contextmanager
def _system_metrics(uri: str, run_id: str) -> Iterator[None]:
    """Log load, memory, disk and network of the machine to a run, every ten seconds.

    Memory and load of an NVIDIA GPU too, where `nvidia-ml-py` is installed. A store that fails
    costs these figures and nothing else.
    """
    logging.getLogger("mlflow.system_metrics.system_metrics_monitor").setLevel(logging.WARNING)
    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, resume_logging=True, tracking_uri=uri
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def make_child(tracking: Tracking, run_id: str, parent: str) -> bool:
    """Have MLflow show a run below another one, unless it is a child already.

    Returns:
        Whether this store has the run: weights can come out of DVC's cache, trained elsewhere.
    """
    try:
        tags = tracking.client.get_run(run_id).data.tags
    except MlflowException as error:
        if not is_missing(error):
            raise
        return False
    if MLFLOW_PARENT_RUN_ID not in tags:
        tracking.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
    return True

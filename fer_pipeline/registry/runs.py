"""MLflow runs: one per training and one per fusion, and how a training's run is found again."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT, MLFLOW_RUN_NAME

from fer_pipeline.errors import RegistryError, one_line
from fer_pipeline.events import emit
from fer_pipeline.paths import TRAIN, VAL
from fer_pipeline.provenance import file_sha256, git_state
from fer_pipeline.registry.tracking import Tracking, first_line, mlflow_errors, shown_address

if TYPE_CHECKING:
    from fer_pipeline.provenance import StageInputs

log = logging.getLogger(__name__)

KEY_TAG = "fer.key"
"""Tag of a run: the digest of what decides its result, by which an unfinished run is found."""

LINEAGE_TAG = "fer.lineage"
"""Tag of a training's run: the digest of its params and data, by which it is found again."""

DIGEST_LENGTH = 32
"""How many of the 64 digits of a sha256 name a data set: MLflow keeps 36 characters."""

_SPLITS = {TRAIN: "training", VAL: "validation"}


@dataclass(frozen=True)
class RunLog:
    """An open run to write to."""

    client: MlflowClient
    run_id: str

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log several metrics at once: a batch costs as much as one."""
        now_ms = int(time.time() * 1000)
        batch = [Metric(key, value, now_ms, step) for key, value in values.items()]
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
            RegistryError: the artifact store refused; it raises what its own client does.
        """
        try:
            self.client.log_artifact(self.run_id, str(path), folder)
        except Exception as error:
            raise RegistryError(
                f"{path} could not be stored with the run ({one_line(error)}): see that MLflow's "
                "artifact store runs and has space left, then run the stage again"
            ) from error


@contextmanager
def open_run(
    tracking: Tracking,
    name: str,
    inputs: Mapping[str, object],
    *,
    tags: Mapping[str, str] | None = None,
) -> Iterator[RunLog]:
    """A run that ends as FINISHED, FAILED or KILLED with the block.

    A run that a killed process left open is continued, if it had the same inputs in the same
    workspace: however often a stage is interrupted, it leaves one run.

    Args:
        name: shown in the UI.
        inputs: everything that decides the result; not logged, only compared. A run with
            `data` among them is a training: the prepared splits are logged as data set inputs,
            and the machine is watched.
        tags: for the run.
    """
    with mlflow_errors(tracking):
        run_id = _start_run(tracking, name, inputs)
        run = RunLog(tracking.client, run_id)
        run.tags(tags or {})
        emit(
            "run",
            name=name,
            run_id=run_id,
            experiment_id=tracking.experiment_id,
            uri=shown_address(tracking.uri),
        )
        try:
            if "data" in inputs:
                _log_data(tracking.client, run_id)
                with _system_metrics(tracking.uri, run_id):
                    yield run
            else:
                yield run
            tracking.client.set_terminated(run_id, "FINISHED")
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            try:
                tracking.client.set_terminated(run_id, status)
            except MlflowException as second:  # of a dead server: it must not hide the first
                log.warning("run %s is not marked %s: %s", run_id, status, first_line(second))
            raise


def _start_run(tracking: Tracking, name: str, inputs: Mapping[str, object]) -> str:
    """The id of the run that a killed process of the same inputs left open, else of a new one."""
    key = _run_key(name, inputs)
    unfinished = tracking.client.search_runs(
        [tracking.experiment_id],
        f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'RUNNING'",
        max_results=1,
    )
    tags = {MLFLOW_RUN_NAME: name, KEY_TAG: key, MLFLOW_GIT_COMMIT: git_state().commit}
    if unfinished:
        return str(unfinished[0].info.run_id)
    return str(tracking.client.create_run(tracking.experiment_id, tags=tags).info.run_id)


def _run_key(name: str, inputs: Mapping[str, object]) -> str:
    place = [socket.gethostname(), str(Path.cwd())]
    text = json.dumps([name, place, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _log_data(client: MlflowClient, run_id: str) -> None:
    """Log the prepared splits that are here as data set inputs of a run, by their sha256."""
    inputs = []
    for path, context in _SPLITS.items():
        if path.exists():
            sha256 = file_sha256(path)
            source = json.dumps({"uri": path.as_posix(), "sha256": sha256})
            data = Dataset(path.name, sha256[:DIGEST_LENGTH], "local", source)
            inputs.append(DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, context)]))
    if inputs:
        client.log_inputs(run_id, inputs)


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


def find_training_run(tracking: Tracking, inputs: StageInputs, val_accuracy: float) -> str | None:
    """The newest finished training of the same params and data that ended at the same accuracy.

    Weights can come out of DVC's cache, and say nothing of a run: but the same inputs give the
    same weights.

    Args:
        tracking: the store.
        inputs: of the training.
        val_accuracy: the best of its epochs.

    Returns:
        The run's id, or None where this store has no such run: it was trained elsewhere.
    """
    found = tracking.client.search_runs(
        [tracking.experiment_id],
        f"tags.`{LINEAGE_TAG}` = '{inputs.lineage}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
    )
    for run in found:
        if abs(run.data.metrics.get("best_val_accuracy", -1.0) - val_accuracy) < 1e-9:
            return str(run.info.run_id)
    return None

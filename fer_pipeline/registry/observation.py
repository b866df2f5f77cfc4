"""What a training's run says beside its params and epochs: its data, and what the machine did."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from fer_pipeline.paths import TRAIN, VAL
from fer_pipeline.provenance import file_sha256

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DIGEST_LENGTH = 32
"""Of the 64 digits of a sha256: MLflow keeps 36 characters at most; the source has all."""

_SPLITS = {TRAIN: "training", VAL: "validation"}


def log_data(client: MlflowClient, run_id: str) -> None:
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
def system_metrics(uri: str, run_id: str) -> Iterator[None]:
    """Log load, memory, disk and network of the machine to a run, every ten seconds.

    Memory and load of an NVIDIA GPU too, where `nvidia-ml-py` is installed. A store that fails
    costs these figures and nothing else.
    """
    noise = logging.getLogger("mlflow.system_metrics.system_metrics_monitor")
    level = noise.level
    noise.setLevel(logging.WARNING)
    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, resume_logging=True, tracking_uri=uri
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        noise.setLevel(level)

"""Versions of the registered model: one per content, made once, with its lineage as tags."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

import fer_pipeline
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import RegistryError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fer_pipeline.registry.tracking import Tracking

CHALLENGER = "challenger"
CONTENT_TAG = "fer.content_sha256"

# What the stored code imports; pinned to what the pipeline ran with.
_REQUIREMENTS = (
    "mlflow", "numpy", "pandas", "pillow", "safetensors", "torch", "torchvision",
)  # fmt: skip


def find_version(tracking: Tracking, name: str, content: str) -> str | None:
    """The version that holds this content, if it was registered before."""
    found = tracking.client.search_model_versions(
        f"name = '{name}' and tags.`{CONTENT_TAG}` = '{content}'"
    )
    numbers = [str(model.version) for model in found]
    return min(numbers, key=int) if numbers else None


def register_version(
    tracking: Tracking,
    name: str,
    run_id: str,
    bundle: Path,
    example: npt.NDArray[np.uint8],
    tags: Mapping[str, str],
) -> str:
    """Log the fused model to its run and register it.

    Args:
        tracking: the store.
        name: of the registered model.
        run_id: the fusion run that the model belongs to.
        bundle: folder with `spec.json` and the weights.
        example: (1, 48, 48) uint8, stored as the input example.
        tags: for the version; they are set in the same call that makes it, so there is no
            version without its content tag.

    Returns:
        The version's number.

    Raises:
        RegistryError: MLflow refused.
    """
    mlflow.set_tracking_uri(tracking.uri)
    try:
        with mlflow.start_run(run_id=run_id, experiment_id=tracking.experiment_id):
            model = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("fused_pyfunc.py")),
                artifacts={"bundle": str(bundle)},
                code_paths=[str(Path(fer_pipeline.__file__).parent)],
                signature=_signature(),
                input_example=example,
                pip_requirements=[f"{package}=={version(package)}" for package in _REQUIREMENTS],
            )
        made = mlflow.register_model(model.model_uri, name, tags=dict(tags))
    except MlflowException as error:
        raise RegistryError(f"MLflow could not register {name}: {error.message}") from error
    return str(made.version)


def set_challenger(tracking: Tracking, name: str, number: str) -> None:
    """Point the alias `challenger` at a version."""
    tracking.client.set_registered_model_alias(name, CHALLENGER, number)


def _signature() -> ModelSignature:
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 48, 48))]),
        outputs=Schema([ColSpec("float", emotion) for emotion in EMOTIONS]),
        params=ParamSchema([ParamSpec("output", "string", "probabilities")]),
    )

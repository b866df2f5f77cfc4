"""Where the files of a version lie, in whatever store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from fer_pipeline.registry.tracking import Tracking

_LOGGED_MODEL = "models:/"


def open_storage(tracking: Tracking, name: str, number: str) -> ArtifactRepository:
    """The files of a version, to be listed, fetched or deleted.

    MLflow's own functions for `models:/` addresses ask a global setting for the registry; this
    asks the store that it is given.
    """
    found = tracking.client.get_model_version(name, number)
    logged = logged_model_id(found)
    location = (
        str(tracking.client.get_logged_model(logged).artifact_location)
        if logged
        else str(found.source)
    )
    return get_artifact_repository(location, tracking_uri=tracking.uri, registry_uri=tracking.uri)


def logged_model_id(found: ModelVersion) -> str | None:
    """The logged model that a version is made from: some stores say it in the source alone."""
    if found.model_id:
        return str(found.model_id)
    source = str(found.source)
    return source.removeprefix(_LOGGED_MODEL) if source.startswith(_LOGGED_MODEL) else None

"""Where the files of a version lie, in whatever store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from fer_pipeline.registry.tracking import Tracking


def open_storage(tracking: Tracking, name: str, number: str) -> ArtifactRepository:
    """The files of a version, to be listed, fetched or deleted.

    MLflow's own functions for `models:/` addresses ask a global setting for the registry; this
    asks the store that it is given.
    """
    found = tracking.client.get_model_version(name, number)
    location = str(found.source)
    if found.model_id:
        location = tracking.client.get_logged_model(found.model_id).artifact_location
    return get_artifact_repository(location, tracking_uri=tracking.uri, registry_uri=tracking.uri)

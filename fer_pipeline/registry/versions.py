"""Versions of the registered model: one per content, made once, with its lineage as tags.

A version is stored with the code that it runs where it is served. Only what the model imports is
stored, so that a change of flows or reports makes no new version.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

import fer_pipeline
from fer_pipeline.data.faces import SIDE
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import RegistryBusyError
from fer_pipeline.provenance import code_digest, content_digest
from fer_pipeline.registry.aliases import alias_lock
from fer_pipeline.registry.fetch import open_storage
from fer_pipeline.registry.tracking import is_missing, storage_errors

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

CONTENT_TAG = "fer.content_sha256"
"""Tag of a version: the digest of its weights and of the code that it runs."""

LONGEST_DESCRIPTION = 5000
"""The number of characters that the column of a PostgreSQL or MySQL store holds."""

MODEL_SCRIPT = Path(__file__).with_name("pyfunc.py")
"""The script that MLflow stores and runs to load the model."""

STORED_FILES = (
    "__init__.py", "arrays.py", "data/__init__.py", "data/faces.py", "data/pictures.py",
    "emotions.py", "errors.py", "files.py", "fusion/__init__.py", "fusion/average.py",
    "models/__init__.py", "models/backbones.py", "models/catalog.py", "models/inference.py",
    "models/transforms.py", "serving/__init__.py", "serving/batching.py", "serving/bundle.py",
    "serving/engine.py", "serving/predictor.py",
    "serving/requests.py", "serving/speed.py", "threads.py", "training/__init__.py",
    "training/capture.py",
)  # fmt: skip
"""The files of `fer_pipeline` that `MODEL_SCRIPT` imports, itself or through others."""

_ABOUT = (
    "The expression of a 48x48 grey face, by the fused logits of several networks. `champion` is "
    "the version in use, `previous` the champion before, `challenger` the last that passed gate "
    "and check."
)
"""Description of the registered model."""

_LOGGED_MODEL = "models:/"
"""Start of the source of a version whose files are its own."""

_REQUIREMENTS = (
    "mlflow", "numpy", "pandas", "pillow", "safetensors", "torch", "torchvision",
)  # fmt: skip
"""The libraries that the stored code imports; pinned to the versions that registered it."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is to become a version.

    Attributes:
        content: the digest of its weights and of the code that it runs.
        run_id: the fusion run that the model belongs to.
        folders: what is stored beside the code, by name: `bundle` and `record`.
        tags: for the version.
        description: the model card.
    """

    content: str
    run_id: str
    folders: Mapping[str, Path]
    tags: Mapping[str, str]
    description: str


def write_model_code(folder: Path) -> Path:
    """Copy the files that the model imports into a folder; returns the package there."""
    package = Path(fer_pipeline.__file__).parent
    for name in STORED_FILES:
        copy = folder / package.name / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, copy)
    return folder / package.name


def version_digest(bundle: list[Path]) -> str:
    """The digest that tells versions apart: of the bundle's files, its code and its requirements.

    A comment or a docstring in the code makes no other digest, another statement does.
    """
    package = Path(fer_pipeline.__file__).parent
    code = code_digest([MODEL_SCRIPT, *(package / name for name in STORED_FILES)])
    parts = [content_digest(bundle), code, *_pinned_requirements()]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _pinned_requirements() -> list[str]:
    return [f"{package}=={version(package)}" for package in _REQUIREMENTS]


def register_once(tracking: Tracking, name: str, candidate: Candidate) -> str:
    """The one version of this content: that which is there, else a new one.

    MLflow registers the same content twice without a warning, and processes that share a server
    can't lock each other out: a lock in the registry would stay when its process is killed. So the
    registry's own numbers decide: a version is made with the digest of its content in one call, and
    then every process lists the versions with that digest (`deduplicate`). The database gives
    numbers in one sequence and no number twice, so the process that got 5 sees 4. The lowest stays;
    any process that finds another deletes it. No alias points at one, since aliases move only after
    this. A version exists only when all its files are stored: a registration that is killed before
    leaves none.

    The weights are stored with every version, also where another version has the same: MLflow
    copies what it is given, and a version that shared files could not be deleted by itself.

    Returns:
        The version's number.

    Raises:
        RegistryError: MLflow or its artifact store refused.
    """
    mlflow.set_tracking_uri(tracking.uri)
    if not find_versions(tracking, name, candidate.content):
        _make_version(tracking, name, candidate)
    number = deduplicate(tracking, name, candidate.content)
    if not tracking.client.get_registered_model(name).description:
        tracking.client.update_registered_model(name, _ABOUT)
    if not tracking.client.get_model_version(name, number).description:
        text = shorten(candidate.description)
        tracking.client.update_model_version(name, number, description=text)
    return number


def find_versions(tracking: Tracking, name: str, content: str) -> list[str]:
    """The versions that hold this content, the lowest first."""
    found = tracking.client.search_model_versions(
        f"name = '{name}' and tags.`{CONTENT_TAG}` = '{content}'"
    )
    return sorted((str(model.version) for model in found), key=int)


def deduplicate(tracking: Tracking, name: str, content: str) -> str:
    """Delete all versions of a content but the lowest, whose number is returned.

    Raises:
        RegistryBusyError: another process deletes them at this moment.
    """
    numbers = find_versions(tracking, name, content)
    if not numbers:
        raise RegistryBusyError(f"a version of {name} was deleted while it was made: try again")
    first, *others = numbers
    for number in others:
        log.info("version %s has the content of version %s: it goes", number, first)
        discard_version(tracking, name, number)
    return first


def discard_version(tracking: Tracking, name: str, number: str) -> None:
    """Delete a version and its files, unless it has an alias; another process may do the same.

    The version goes first: a kill in between leaves files that nobody sees, not a version
    without files.
    """
    try:
        found = tracking.client.get_model_version(name, number)
        if found.aliases:
            return
        storage = open_storage(tracking, name, number)
        tracking.client.delete_model_version(name, number)
        if str(found.source).startswith(_LOGGED_MODEL):
            tracking.client.delete_logged_model(str(found.source).removeprefix(_LOGGED_MODEL))
            storage.delete_artifacts()  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        pass  # another process has deleted the same, and deletes the rest, too
    except MlflowException as error:
        if not is_missing(error):
            raise


def superfluous(numbers: Sequence[str], aliased: Collection[str], keep: int) -> list[str]:
    """The versions that have no alias and are not among the newest `keep`, the oldest first."""
    older = sorted(numbers, key=int)[: max(0, len(numbers) - keep)]
    return [number for number in older if number not in aliased]


def collect_garbage(tracking: Tracking, name: str, keep: int, *, dry_run: bool) -> list[str]:
    """Delete superfluous versions with their files; their runs and what these say stay.

    Returns:
        The versions that went, or with `dry_run` would go.
    """
    # An interrupted move may need a version that has no alias yet: the lock sees to it.
    with nullcontext() if dry_run else alias_lock(tracking, name):
        versions = tracking.client.search_model_versions(f"name = '{name}'")
        found = [str(one.version) for one in versions]
        aliased = tracking.client.get_registered_model(name).aliases if found else {}
        doomed = superfluous(found, set(map(str, aliased.values())), keep)
        for number in [] if dry_run else doomed:
            discard_version(tracking, name, number)
    return doomed


def shorten(card: str) -> str:
    """The card, cut after a whole line where it is longer than a store's column."""
    if len(card) <= LONGEST_DESCRIPTION:
        return card
    pointer = "\n\n(Cut here: the whole card is an artifact of the run.)"
    return card[: LONGEST_DESCRIPTION - len(pointer)].rpartition("\n")[0] + pointer


def _make_version(tracking: Tracking, name: str, candidate: Candidate) -> None:
    with (
        storage_errors(f"{name} could not be registered, and no alias was moved"),
        tempfile.TemporaryDirectory() as folder,
        # MLflow warns where there is no input example, and to try one it would load the networks.
        warnings.catch_warnings(action="ignore"),
    ):
        with mlflow.start_run(run_id=candidate.run_id, experiment_id=tracking.experiment_id):
            model = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MODEL_SCRIPT),
                artifacts={key: str(folder) for key, folder in candidate.folders.items()},
                code_paths=[str(write_model_code(Path(folder)))],
                signature=_signature(),
                pip_requirements=_pinned_requirements(),
            )
        tags = {**candidate.tags, CONTENT_TAG: candidate.content}
        mlflow.register_model(model.model_uri, name, tags=tags)


def _signature() -> ModelSignature:
    """What comes in is left to `serving.requests`: a schema can't say 'arrays or pictures'."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, SIDE, SIDE))]),
        outputs=Schema([ColSpec("float", emotion) for emotion in EMOTIONS]),
        params=ParamSchema(
            [ParamSpec("output", "string", "probabilities"), ParamSpec("singles", "boolean", False)]
        ),
    )
    # MLflow's server then hands over what was sent, as to a model with type hints. Else it makes
    # an array of it before anybody has looked at how many texts there are, and how long.
    signature._is_signature_from_type_hint = True
    return signature

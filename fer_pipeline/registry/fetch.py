"""A version of the registered model: found, seen to be whole, and fetched to be used here.

Copies of weights lie in the project, where the next process clears what a killed one left.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from fer_pipeline.errors import RegistryError
from fer_pipeline.paths import SCRATCH
from fer_pipeline.provenance import file_sha256
from fer_pipeline.registry.tracking import is_missing, mlflow_errors, storage_errors
from fer_pipeline.serving.bundle import bundle_files, open_bundle, read_change

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking
    from fer_pipeline.serving.bundle import Bundle

SCHEME = "models:/"

BUNDLE, RECORD = "artifacts/bundle", "artifacts/record"
"""Folders of a version's files: the fused model, and what it was measured by."""

FILES_TAG = "fer.files"
"""Tag of a version: size in bytes and sha256 of each file of its bundle, as JSON."""


def parse_model(text: str, default_name: str) -> tuple[str, str]:
    """Name and version, or alias, of `models:/NAME/3`, `models:/NAME@ALIAS`, `3` or `ALIAS`.

    Raises:
        RegistryError: it is none of these.
    """
    if not text.startswith(SCHEME):
        return default_name, text
    address = text.removeprefix(SCHEME)
    name, _, chosen = address.rpartition("@" if "@" in address else "/")
    if not (name and chosen):
        raise RegistryError(
            f"{text} names no version: give models:/NAME/VERSION or models:/NAME@ALIAS"
        )
    return name, chosen


def find_version(tracking: Tracking, name: str, chosen: str) -> str:
    """The number of a version, given itself or an alias.

    Raises:
        RegistryError: there is no such version, or the registry does not answer.
    """
    client, is_number = tracking.client, chosen.isdecimal()
    find = client.get_model_version if is_number else client.get_model_version_by_alias
    with mlflow_errors(tracking.uri):
        try:
            return str(find(name, chosen).version)
        except MlflowException as error:
            # MLflow has two codes for it: one for the model and the version, one for the alias.
            if is_missing(error) or error.error_code == "INVALID_PARAMETER_VALUE":
                called = f"version {chosen}" if is_number else f"with the alias '{chosen}'"
                raise RegistryError(
                    f"the registry has no {name} {called}: 'fer registry status' shows what it has"
                ) from error
            raise


def open_storage(tracking: Tracking, name: str, number: str) -> ArtifactRepository:
    """The files of a version, to be listed, fetched or deleted.

    MLflow's own functions for `models:/` addresses take the registry from a global setting; this
    one asks the store that it is given.
    """
    location = tracking.client.get_model_version_download_uri(name, number)
    return get_artifact_repository(location, tracking_uri=tracking.uri, registry_uri=tracking.uri)


def files_tag(bundle: Path) -> dict[str, str]:
    """The tag by which the files of a version are checked."""
    files = bundle_files(bundle)
    told = {path.name: (path.stat().st_size, file_sha256(path)) for path in files}
    return {FILES_TAG: json.dumps(told)}


def require_files(tracking: Tracking, name: str, number: str) -> None:
    """See that the files of a version are there, in their size, without fetching them.

    Raises:
        RegistryError: one is missing or has another size, or the store does not answer.
    """
    with storage_errors(f"the files of {name} version {number} can't be listed"):
        listed = open_storage(tracking, name, number).list_artifacts(BUNDLE)
    sizes = {Path(file.path).name: file.file_size for file in listed}
    for file, (size, _) in _files_of(tracking, name, number).items():
        if sizes.get(file) != size:
            raise _not_whole(name, number, file, f"has {sizes.get(file, 'no')} bytes, not {size}")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder that is deleted at the end; MLflow's own temporary files go there, too.

    What killed processes left goes first: the kernel frees the lock beside a folder with the
    process that holds it.
    """
    SCRATCH.mkdir(exist_ok=True)
    for leftover in SCRATCH.glob("*.lock"):
        with suppress(Timeout), FileLock(leftover, timeout=0):
            shutil.rmtree(leftover.with_suffix(""), ignore_errors=True)
            leftover.unlink(missing_ok=True)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=SCRATCH.resolve(), ignore_cleanup_errors=True) as folder:
        lock = Path(f"{folder}.lock")
        with FileLock(lock):
            tempfile.tempdir = folder
            try:
                yield Path(folder)
            finally:
                tempfile.tempdir = before
                lock.unlink(missing_ok=True)


@contextmanager
def fetch_version(tracking: Tracking, name: str, number: str) -> Iterator[Path]:
    """Give the folder of a version's files; what had to be fetched is deleted at the end.

    Raises:
        RegistryError: they can't be had, or are not those that were registered.
    """
    with scratch_folder():
        with storage_errors(f"the files of {name} version {number} can't be fetched"):
            folder = Path(open_storage(tracking, name, number).download_artifacts(""))  # type: ignore[no-untyped-call]
        for file, (_, sha256) in _files_of(tracking, name, number).items():
            path = folder / BUNDLE / file
            if not path.is_file() or file_sha256(path) != sha256:
                raise _not_whole(name, number, file, "is missing or not what was registered")
        yield folder


@contextmanager
def fetch_bundle(tracking: Tracking, name: str, number: str) -> Iterator[Bundle]:
    """Give the fused model of a version.

    Raises:
        RegistryError: its files can't be had, or are not those that were registered.
    """
    with fetch_version(tracking, name, number) as folder:
        bundle = open_bundle(folder / BUNDLE, f"{name} version {number}")
        yield replace(bundle, bf16=read_change(folder / RECORD))


def _files_of(tracking: Tracking, name: str, number: str) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file of a version's bundle; version 0.1 wrote none down so."""
    tags = tracking.client.get_model_version(name, number).tags
    found: dict[str, tuple[int, str]] = json.loads(tags.get(FILES_TAG, "{}"))
    return found


def _not_whole(name: str, number: str, file: str, what: str) -> RegistryError:
    return RegistryError(
        f"{name} version {number} is not whole: its {file} {what}: take another version; if the "
        "file is lost, delete the version in MLflow and run 'dvc repro --force --single-item "
        "register'"
    )

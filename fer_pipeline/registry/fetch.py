"""A version of the registered model, fetched to be used here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from fer_pipeline.errors import RegistryError, one_line
from fer_pipeline.provenance import file_sha256
from fer_pipeline.registry.check import files_of
from fer_pipeline.registry.scratch import scratch_folder
from fer_pipeline.registry.tracking import is_missing, mlflow_errors, open_storage
from fer_pipeline.serving.bundle import open_bundle
from fer_pipeline.serving.precision import read_tag

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking
    from fer_pipeline.serving.bundle import Bundle

SCHEME = "models:/"


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
    with mlflow_errors(tracking.uri):
        try:
            if chosen.isdecimal():
                return str(tracking.client.get_model_version(name, chosen).version)
            return str(tracking.client.get_model_version_by_alias(name, chosen).version)
        except MlflowException as error:
            # MLflow has two codes for it: one for the model and the version, one for the alias.
            if is_missing(error) or error.error_code == "INVALID_PARAMETER_VALUE":
                raise RegistryError(
                    f"the registry has no {name} {_called(chosen)}: 'fer registry status' shows "
                    "what it has"
                ) from error
            raise


@contextmanager
def fetch_bundle(tracking: Tracking, name: str, number: str) -> Iterator[Bundle]:
    """Give the bundle of a version; what had to be fetched is deleted at the end.

    Raises:
        RegistryError: its files can't be had, or are not those that were registered.
    """
    with scratch_folder():
        try:
            storage = open_storage(tracking, name, number)
            folder = Path(storage.download_artifacts("artifacts/bundle"))  # type: ignore[no-untyped-call]
        except Exception as error:  # what a store's own client raises
            raise RegistryError(
                f"the files of {name} version {number} can't be fetched ({one_line(error)}): see "
                "that the artifact store runs"
            ) from error
        for file, (_, sha256) in files_of(tracking, name, number).items():
            if not (folder / file).is_file() or file_sha256(folder / file) != sha256:
                raise RegistryError(
                    f"{file} of {name} version {number} is missing or not what was registered: "
                    "take another version"
                )
        tags = tracking.client.get_model_version(name, number).tags
        yield replace(open_bundle(folder, f"{name} version {number}"), bf16=read_tag(tags))


def _called(chosen: str) -> str:
    return f"version {chosen}" if chosen.isdecimal() else f"with the alias '{chosen}'"

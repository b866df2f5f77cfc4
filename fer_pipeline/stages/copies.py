"""Copies of a training's checkpoints in a bucket, where another machine goes on from them.

`FER_CHECKPOINTS=s3://bucket/prefix` asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_pipeline.data.sources.downloads import BrokenConnectionError
from fer_pipeline.data.sources.s3 import BUCKET, S3, SCHEME
from fer_pipeline.errors import DataError, SourceUnreachableError, TrainingError, hide_password

VARIABLE = "FER_CHECKPOINTS"


def open_copies(training: str) -> BucketCopies | None:
    """The copies of one training's checkpoints, or None where none are asked for.

    A bucket that does not answer at the moment counts as one that will.

    Args:
        training: names it below the prefix.

    Raises:
        TrainingError: the address is none, or the bucket is missing or refuses.
    """
    address = os.environ.get(VARIABLE, "")
    if not address:
        return None
    bucket, _, prefix = address.removeprefix(SCHEME).strip("/").partition("/")
    if not (address.startswith(SCHEME) and BUCKET.fullmatch(bucket)):
        raise TrainingError(
            f"{VARIABLE} is '{hide_password(address)}': write it as s3://bucket/prefix"
        )
    copies = BucketCopies(bucket, "/".join(filter(None, (prefix, training))) + "/")
    try:
        copies.names()
    except DataError as error:
        if not error.transient:
            raise TrainingError(f"{VARIABLE}: {error}") from error
    return copies


class BucketCopies:
    """Objects of one folder of a bucket, by their names in it; see `training.checkpoints.Copies`.

    An object is there with all its bytes or not at all, whatever happens to who sends it.
    """

    def __init__(self, bucket: str, folder: str) -> None:
        self._bucket, self._folder = bucket, folder
        self._s3 = S3()

    def names(self) -> list[str]:
        with self._reached():
            found = self._s3.client.list_objects_v2(Bucket=self._bucket, Prefix=self._folder)
        return [one["Key"].removeprefix(self._folder) for one in found.get("Contents", [])]

    def read(self, name: str) -> bytes:
        with self._reached():
            found = self._s3.client.get_object(Bucket=self._bucket, Key=self._folder + name)
            with found["Body"] as body:
                return bytes(body.read())

    def write(self, file: Path) -> None:
        with file.open("rb") as body, self._reached():
            self._s3.client.put_object(Bucket=self._bucket, Key=self._folder + file.name, Body=body)

    def delete(self, name: str) -> None:
        with self._reached():
            self._s3.client.delete_object(Bucket=self._bucket, Key=self._folder + name)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        uri = f"{SCHEME}{self._bucket}/{self._folder}"
        try:
            with self._s3.explained(uri):
                yield
        except BrokenConnectionError as error:
            raise SourceUnreachableError(f"{uri} can't be reached ({error})") from error

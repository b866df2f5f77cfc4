"""Sources at `s3://bucket/key`, on AWS or any store that speaks its protocol.

boto3 takes credentials, region and `AWS_ENDPOINT_URL` from the environment or from `~/.aws`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)

from fer_pipeline.data.upstream import BrokenConnectionError, Upstream
from fer_pipeline.errors import DataError

SCHEME = "s3://"
CHUNK_BYTES = 1 << 20

_CONFIG = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"total_max_attempts": 1},  # `downloads` retries, and says how far it got
    # Not every store knows the checksums that boto3 asks for by itself; the pin has a sha256.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)
_BROKEN = (ConnectionError, HTTPClientError, ResponseStreamingError)
_TRY_AGAIN = {"500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown"}


class S3:
    """Objects in buckets."""

    reads_ranges = True

    def find(self, uri: str) -> Upstream:
        bucket, key = _split(uri)
        with _Explained(uri, pinned=False):
            head = self._client.head_object(Bucket=bucket, Key=key)
        number = head.get("VersionId", "null")
        # A bucket that never kept versions gives none, one that stopped keeping them says "null".
        version = f"ETag={head['ETag']}" if number == "null" else f"VersionId={number}"
        return Upstream(uri, version, head["ContentLength"])

    def read(self, upstream: Upstream, start: int, stop: int | None) -> Iterator[bytes]:
        bucket, key = _split(upstream.uri)
        kind, _, value = upstream.version.partition("=")
        version = {"VersionId": value} if kind == "VersionId" else {"IfMatch": value}
        last = "" if stop is None else stop - 1
        with _Explained(upstream.uri, pinned=True):
            found = self._client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{last}", **version
            )
            with closing(found["Body"]) as body:
                yield from body.iter_chunks(CHUNK_BYTES)

    @cached_property
    def _client(self) -> Any:
        try:
            return boto3.Session().client("s3", config=_CONFIG)
        except (BotoCoreError, ValueError) as error:  # such as an unknown profile
            raise DataError(f"S3 can't be used: {_one_line(error)}") from error


class _Explained:
    """Turns what boto3 raises about a file into what a user can act on."""

    def __init__(self, uri: str, pinned: bool) -> None:
        self._uri, self._pinned = uri, pinned

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            raise DataError(
                f"{self._uri} needs credentials: set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        if isinstance(error, ClientError):
            raise self._explain(error) from error
        if isinstance(error, _BROKEN):
            raise BrokenConnectionError(_one_line(error)) from error
        if isinstance(error, BotoCoreError):
            raise DataError(f"{self._uri} can't be read: {_one_line(error)}") from error

    def _explain(self, error: ClientError) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in _TRY_AGAIN:
            return BrokenConnectionError(_one_line(error))
        if code == "NoSuchBucket":
            return DataError(f"{self._uri}: there is no such bucket: check its name and endpoint")
        if code in ("404", "NoSuchKey", "NoSuchVersion", "405", "MethodNotAllowed"):
            gone = "the pinned version is gone" if self._pinned else "there is no such object"
            return DataError(f"{self._uri}: {gone}: {self._advice()}")
        if code in ("412", "PreconditionFailed"):
            return DataError(f"{self._uri} has changed since it was pinned: {self._advice()}")
        if code in ("400", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return DataError(
                f"{self._uri}: access denied ({code}): check AWS_ACCESS_KEY_ID, "
                f"AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
            )
        return DataError(f"{self._uri} can't be read: {_one_line(error)}")

    def _advice(self) -> str:
        if self._pinned:
            return f"run 'fer source pin {self._uri}' to take what is there now"
        return "check bucket and key"


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not bucket or not key or key.endswith("/"):
        raise DataError(f"{uri} names no object: write {SCHEME}bucket/key")
    return bucket, key


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

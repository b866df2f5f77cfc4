"""Sources at `s3://bucket/key`, on AWS or any store that speaks its protocol.

boto3 takes credentials, region and `AWS_ENDPOINT_URL` from the environment or from `~/.aws`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from fer_pipeline.data.sources.downloads import (
    BrokenConnectionError,
    Upstream,
    VersionGoneError,
    refusal,
)
from fer_pipeline.errors import DataError, one_line

SCHEME = "s3://"
BUCKET = re.compile(r"[\w.-]{3,255}", re.ASCII)

_CHUNK_BYTES = 1 << 16
_CONFIG = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 2},  # `downloads` tries again too
    # Not every store knows the checksums that boto3 asks for by itself; the pin has a sha256.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)
_BROKEN = (ConnectionError, HTTPClientError, IncompleteReadError)
_STATUS = {"RequestTimeout": 408, "ExpiredToken": 403, "InvalidToken": 403} | dict.fromkeys(
    ("SlowDown", "Throttling", "ThrottlingException", "429"), 429
)
"""HTTP statuses that say better what codes of S3 mean than those which come with them."""

_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class S3:
    """Objects in buckets; one that keeps versions gives the pinned one back for ever."""

    def find(self, uri: str) -> Upstream:
        bucket, key = _split(uri)
        with self.explained(uri, pinned=False):
            # The answer to HEAD would not say why it is refused.
            found = self.client.get_object(Bucket=bucket, Key=key)
            found["Body"].close()
        number = found.get("VersionId", "null")
        # A bucket that never kept versions gives none, one that stopped keeping them "null",
        # which the next upload replaces.
        version = f"ETag={found['ETag']}" if number == "null" else f"VersionId={number}"
        return Upstream(uri, version, found["ContentLength"])

    def read(self, upstream: Upstream, start: int) -> Generator[bytes, None, None]:
        bucket, key = _split(upstream.uri)
        wanted: dict[str, str] = {"Bucket": bucket, "Key": key, **_condition(upstream)}
        if start:
            wanted["Range"] = f"bytes={start}-"
        with self.explained(upstream.uri, pinned=True):
            body = self.client.get_object(**wanted)["Body"]
            try:
                yield from body.iter_chunks(_CHUNK_BYTES)
            finally:
                body.close()

    @cached_property
    def client(self) -> Any:
        """Made when it is first needed: a file that is here already needs none."""
        try:
            return boto3.session.Session().client("s3", config=_CONFIG)
        except ValueError:  # botocore's own for an endpoint that is none
            raise DataError(
                "AWS_ENDPOINT_URL is no address: write it as https://server:port"
            ) from None

    @contextmanager
    def explained(self, uri: str, pinned: bool = False) -> Iterator[None]:
        """Turn what botocore raises about an object into what can be acted on.

        Args:
            uri: of the object, or what it is one of.
            pinned: whether one version was asked for.

        Raises:
            VersionGoneError: the version is gone or replaced.
            DataError: the store refuses, and will do so again.
            BrokenConnectionError: the store does not answer, or is not well.
        """
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise DataError(f"{uri} needs credentials: set {_CREDENTIALS}") from error
        except _BROKEN as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DataError(
                    f"{uri}: the TLS certificate of {self._server} is not trusted here: set "
                    f"AWS_CA_BUNDLE to a file with the one of its authority"
                ) from error
            raise BrokenConnectionError(f"no proper answer from {self._server}") from error
        except ClientError as error:
            raise self._meaning(error, uri, pinned) from error
        except BotoCoreError as error:
            raise DataError(f"{uri} can't be read: {one_line(error)}") from error

    def _meaning(self, error: ClientError, uri: str, pinned: bool) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            return DataError(
                f"{uri}: {self._server} has no such bucket: check its name and AWS_ENDPOINT_URL"
            )
        if pinned and (status == 405 or code == "InvalidArgument"):
            status = 404  # the version that is named was deleted
        status = _STATUS.get(code, status)
        return refusal(uri, status, f"{self._server}: {code}", f"check {_CREDENTIALS}", pinned)

    @property
    def _server(self) -> str:
        """Host and port, whatever else is in the endpoint's address."""
        address = str(self.client.meta.endpoint_url)
        return address.rpartition("@")[2].rpartition("://")[2].partition("/")[0]


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri[len(SCHEME) :].partition("/")
    if not BUCKET.fullmatch(bucket) or not key or key.endswith("/"):
        raise DataError(f"{uri} names no object: write s3://bucket/key")
    return bucket, key


def _condition(upstream: Upstream) -> dict[str, str]:
    kind, _, value = upstream.version.partition("=")
    if kind == "VersionId" and value:
        return {"VersionId": value}
    if kind == "ETag" and value:
        return {"IfMatch": value}
    raise VersionGoneError(f"{upstream.uri} is pinned to {upstream.version!r}, no version of S3")

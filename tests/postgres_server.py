"""A real PostgreSQL server for tests, with a database and a user that nobody else has."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg2

_READY_WITHIN_S = 60.0
_USER = "postgres"
"""The system's user for it, where this process is root's: PostgreSQL refuses root."""


def find_binaries() -> Path | None:
    """Debian keeps them out of the PATH, one folder per version."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else None


class PostgresServer:
    """One server on a free port, in a folder of its own that goes with it."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        # Not in pytest's folder, which only its owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as closed_soon:
            self._port = closed_soon.getsockname()[1]

    @property
    def uri(self) -> str:
        return f"postgresql://fer@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> PostgresServer:
        data = self._folder / "data"
        if os.getuid() == 0:
            shutil.chown(self._folder, _USER, _USER)
        self._run("initdb", "-D", str(data), "-U", "fer", "-A", "trust", "--no-sync", "-E", "UTF8")
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_user(),
                    *(str(self._binaries / "postgres"), "-D", str(data), "-p", str(self._port)),
                    *("-k", str(self._folder), "-h", "127.0.0.1", "-c", "fsync=off"),
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            self._process.wait(timeout=60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user(), str(self._binaries / program), *arguments],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> list[str]:
        """Ends with the test run, also where that is killed."""
        if os.getuid() == 0:
            user = [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
            return ["setpriv", *user, "--pdeathsig", "INT"]
        return []

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self._answers():
            log = self._folder / "log.txt"
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.uri).close()
        except psycopg2.OperationalError:
            return False
        return True

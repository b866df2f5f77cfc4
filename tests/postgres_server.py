"""A real PostgreSQL server for tests, with a database and a user that nobody else has."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg2
from processes import WITHIN_S, wait_until

from flows.stack import free_ports

_SCRIPT = Path(__file__).parents[1] / "docker" / "postgres.sh"


def is_installed() -> bool:
    """Debian keeps its programs out of the PATH, one folder per version."""
    return bool(shutil.which("initdb") or [*Path("/usr/lib/postgresql").glob("*/bin/initdb")])


class PostgresServer:
    """One server on a free port, in a folder of its own that goes with it."""

    def __init__(self) -> None:
        # Not in pytest's folder, which only its owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._folder.chmod(0o711)
        self._password = secrets.token_hex(16)
        self._port = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"postgresql://fer:{self._password}@127.0.0.1:{self._port}/mlflow"

    def __enter__(self) -> PostgresServer:
        where = (str(self._folder / "data"), str(self._port), "127.0.0.1")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", str(_SCRIPT), *where, "-c", "fsync=off"],
                env=os.environ | {"POSTGRES_PASSWORD": self._password},
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
            self._process.wait(WITHIN_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "log.txt"

    def _wait(self) -> None:
        process = self._process
        assert process is not None
        wait_until(lambda: self._answers() or process.poll() is not None, "PostgreSQL answers")
        assert process.poll() is None, self._log.read_text()

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.uri).close()
        except psycopg2.OperationalError:
            return False
        return True

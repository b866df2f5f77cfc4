"""A real MLflow server for tests, and what companies put before one."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from processes import wait_until

from flows.server import answers


@dataclass(frozen=True)
class MlflowServer:
    """A server that answers: its port and its process, the leader of a group."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.process.pid, number)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        return int(closed_soon.getsockname()[1])


@contextmanager
def mlflow_server(
    folder: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    """Start `mlflow server` in a folder, on `mlflow.db` there unless the options name a store."""
    if "--backend-store-uri" not in options:
        options = ("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", *options)
    port = free_port()
    command = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1")
    switches = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    outside = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    with (folder / "mlflow.txt").open("wb") as log:
        process = subprocess.Popen(
            (*command, "--port", str(port), *options),
            cwd=folder,
            env=outside | {"DO_NOT_TRACK": "true"} | switches | dict(env or {}),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = MlflowServer(port, process)
    try:
        wait_for(f"{server.uri}/health", process, folder / "mlflow.txt")
        yield server
    finally:
        server.signal(9)
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until something answers there; a process that ends before shows its log."""
    wait_until(lambda: answers(address) or process.poll() is not None, f"{address} answers")
    assert process.poll() is None, log.read_text()


@contextmanager
def gateway(
    server: MlflowServer, authorization: str = "", certificate: Path | None = None, port: int = 0
) -> Iterator[int]:
    """The port of a reverse proxy that wants a header `Authorization`, or speaks TLS.

    It has no page `/health`, as some hosts of MLflow have none.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, content = 404, "text/plain", b"no such page"
            if authorization and self.headers.get("Authorization") != authorization:
                status = 401
            elif self.path != "/health":
                upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                headers = {"Content-Type": self.headers.get("Content-Type") or "text/plain"}
                upstream.request(self.command, self.path, sent, headers)
                answer = upstream.getresponse()
                status, content = answer.status, answer.read()
                kind = answer.getheader("Content-Type", kind)
                upstream.close()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as proxy:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
        threading.Thread(target=proxy.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield proxy.server_port
        finally:
            proxy.shutdown()


def write_certificate(path: Path) -> Path:
    """A certificate of 127.0.0.1 with its key, signed by nobody."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password)
    path.write_bytes(secret + made.public_bytes(encoding))
    return path

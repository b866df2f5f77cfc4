"""A small real web server for tests, with the faults that web servers have."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """What the server serves at every path, and how.

    Attributes:
        content: of the file.
        headers: of good answers, such as an ETag.
        ranges: whether parts of the file can be asked for.
        statuses: of the next answers, 200 meaning as usual; then always as usual.
        refuse_head: whether HEAD is answered with 405.
        break_after: bytes after which the next connections are cut, one each.
        asked: method, path and Range of every request so far.
    """

    content: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"1"'})
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    refuse_head: bool = False
    break_after: list[int] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def serve(behaviour: Behaviour) -> Iterator[str]:
    """Serve on a free port; gives the address without a path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            wanted = self.headers.get("Range", "")
            behaviour.asked.append((self.command, self.path, wanted))
            status = behaviour.statuses.pop(0) if behaviour.statuses else 200
            if not body and behaviour.refuse_head:
                status = 405
            if self.path == "/moved":
                self._start(302, 0, {"Location": "/file"})
            elif status != 200:
                self._start(status, 0, {})
            elif wanted and behaviour.ranges:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                end = int(last) + 1 if last else len(behaviour.content)
                self._send(206, behaviour.content[int(first) : end], body)
            else:
                self._send(200, behaviour.content, body)

        def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, status: int, content: bytes, body: bool) -> None:
            ranges = {"Accept-Ranges": "bytes"} if behaviour.ranges else {}
            self._start(status, len(content), behaviour.headers | ranges)
            if not body:
                return
            if behaviour.break_after:
                self.wfile.write(content[: behaviour.break_after.pop(0)])
                self.close_connection = True
                return
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A real web server for tests, with the habits and the faults of others."""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, cast


class WebServer:
    """Serves `content` at every path, as its attributes say, which may change at any time.

    Attributes:
        etag, modified: the headers that name the version; left out if empty.
        ranges: whether parts are sent when asked for.
        announces_size: whether Content-Length is sent; else the body is chunked.
        headers: more of them, for every answer.
        statuses: sent instead of the file, one for each of the next requests.
        breaks: for each of the next requests, after how many bytes its connection breaks.
        silent_from: from this byte of the file on, nothing is sent, until the server stops.
        moved: paths, and where they redirect to.
        asked: path and headers of every request.
        sent: bytes of bodies.
    """

    def __init__(self) -> None:
        self.content = b""
        self.etag = '"one"'
        self.modified = ""
        self.ranges = True
        self.announces_size = True
        self.headers: dict[str, str] = {}
        self.statuses: list[int] = []
        self.breaks: list[int] = []
        self.silent_from: int | None = None
        self.moved: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.lock = Lock()
        self.stopping = Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        cast(Any, self._server).habits = self
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is what some tests are about: no traceback for it."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        habits: WebServer = cast(Any, self.server).habits
        asked = self.headers.get("Range", "")
        with habits.lock:
            habits.asked.append((self.path, dict(self.headers)))
            status = habits.statuses.pop(0) if habits.statuses else 0
            breaks = habits.breaks.pop(0) if habits.breaks else None
        if self.path in habits.moved:
            self._send_head(302, {"Location": habits.moved[self.path], "Content-Length": "0"})
        elif status:
            self._send_head(status, {"Content-Length": "0"})
        else:
            self._send_file(habits, asked, breaks)

    def _send_file(self, habits: WebServer, asked: str, breaks: int | None) -> None:
        content, start, stop = habits.content, 0, len(habits.content)
        names = {"ETag": habits.etag, "Last-Modified": habits.modified, **habits.headers}
        head = {name: value for name, value in names.items() if value}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if part and habits.ranges:
            start = int(part[1])
            stop = min(int(part[2]) + 1, len(content)) if part[2] else len(content)
            head["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            if start >= len(content):
                self._send_head(416, {"Content-Length": "0"})
                return
        chunked = not habits.announces_size
        head |= (
            {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": f"{stop - start}"}
        )
        self._send_head(206 if "Content-Range" in head else 200, head)
        self._send_body(habits, content[start:stop], start, breaks, chunked)

    def _send_body(
        self, habits: WebServer, body: bytes, start: int, breaks: int | None, chunked: bool
    ) -> None:
        if habits.silent_from is not None and start + len(body) > habits.silent_from:
            self._send(habits, body[: max(0, habits.silent_from - start)], chunked)
            habits.stopping.wait()
            self.close_connection = True
        elif breaks is not None and breaks < len(body):
            self._send(habits, body[:breaks], chunked)
            self.close_connection = True
        else:
            self._send(habits, body, chunked)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")

    def _send(self, habits: WebServer, body: bytes, chunked: bool) -> None:
        try:
            for at in range(0, len(body), 1 << 16):
                piece = body[at : at + (1 << 16)]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                with habits.lock:
                    habits.sent += len(piece)
        except OSError:  # whoever asked has gone
            self.close_connection = True

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

"""An OpenAI-compatible API on a real socket that says what a test tells it to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from workloads.serve.chat_page import chat_page

MODELS = ("base", "adapter")


class Lost(Exception):
    """Raised by an answer to cut the connection in its middle."""


@dataclass
class ScriptedApi:
    """What it says, and what it was asked."""

    answer: Callable[[str], Iterable[str]] = lambda question: ("You said ", question, ".")
    """The pieces of the answer to a question."""
    refusal: tuple[int, str] | None = None
    """A status and a message to refuse questions with."""
    key: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    """Set when the client ends an answer."""

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[str]:
        """Listens for a `with` block; its value is the address."""
        server = _Server(("127.0.0.1", port), _Handler)
        server.api = self
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: ScriptedApi


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if self.path == "/":
            page = chat_page()
            self._send(200, page.body, {"Content-Type": page.type, **page.headers})
        elif self._allowed() and self.path == "/v1/models":
            self._json(200, {"data": [{"id": name} for name in MODELS]})

    def do_POST(self) -> None:
        api = self.server.api
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        api.asked.append(request)
        if api.refusal:
            self._json(api.refusal[0], {"error": {"message": api.refusal[1]}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in api.answer(request["messages"][-1]["content"]):
                self._event({"content": piece}, None)
            self._event({}, "stop")
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except Lost:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            api.hung_up.set()

    def _allowed(self) -> bool:
        key = self.server.api.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self._json(401, {"error": {"message": "no such key"}})
        return False

    def _event(self, delta: dict[str, str], finish_reason: str | None) -> None:
        content = {"choices": [{"delta": delta, "finish_reason": finish_reason}]}
        self._chunk(b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def _json(self, status: int, content: object) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

"""A webhook on this machine is told of runs: once with success, once never answering."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import jobs.notify
from jobs.notify import Webhook
from tests.unit.jobs.test_notify import FAILED, MASK

pytestmark = pytest.mark.integration


class Hook(ThreadingHTTPServer):
    """Answers as it is told, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.hangs = threading.Event()
        self.holds = False
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/very-secret"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self.server.bodies.append(json.loads(self.rfile.read(size)))
        if self.server.holds:
            self.server.hangs.wait(60)
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", self.server.url)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.hangs.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _tell(hook: Hook) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []

    def event(kind: str, **fields: Any) -> None:
        events.append((kind, fields))

    webhook = Webhook(hook.url, ("failed",), MASK, event, sleep=lambda _: None)
    webhook.tell("failed", FAILED)
    webhook.wait()
    return events


def test_it_is_told_in_json(hook: Hook) -> None:
    hook.answers = [500, 429]
    assert _tell(hook) == [("notified", {"occasion": "failed", "status": 200})]
    assert len(hook.bodies) == 3
    assert hook.bodies[0]["reason"] == "storage"
    assert "secret" not in json.dumps(hook.bodies)


def test_redirects_are_not_followed(hook: Hook) -> None:
    hook.answers = [307] * 3
    assert _tell(hook)[0][1]["reason"] == "HTTP 307"
    assert len(hook.bodies) == 3


def test_one_that_does_not_answer_holds_a_run_up_for_a_little_while(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.notify, "_TRY_S", 0.2)
    hook.holds = True
    assert _tell(hook)[0][0] == "notify_failed"
    monkeypatch.setattr(jobs.notify, "_TRY_S", 60)
    monkeypatch.setattr(jobs.notify, "_PATIENCE_S", 0.2)
    began = time.monotonic()
    assert _tell(hook) == []
    assert time.monotonic() - began < 10

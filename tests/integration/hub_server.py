"""A hub of this machine's own: as much of Hugging Face's protocol as an upload needs.

Repositories and files are kept in memory. Files of weights go through the LFS part of the protocol,
the rest in the commit. A wrong token is refused, and `fail` makes the next commits break.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hub-token-of-the-test"


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By repository and name."""
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    """Their messages."""
    branches: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by their sha256."""
    uploads: int = 0
    fail: int = 0
    """How many more commits break."""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Runs a hub, for a `with` block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Tells of a repository."""
        self._body()
        if not self._is_allowed():
            return
        match = re.match(r"/api/models/([^/]+/[^/?]+)", self.path)
        files = self.hub.files.get(match[1]) if match else None
        if match is None or files is None:
            self._answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        self._answer(200, {"id": match[1], "sha": "0" * 40, "siblings": siblings})

    def do_PUT(self) -> None:
        """Takes a large file."""
        content = self._body()
        digest = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == digest
        self.hub.objects[digest] = content
        self.hub.uploads += 1
        self._answer(200, {})

    def do_POST(self) -> None:
        """Makes repositories, branches and commits, and tells how to send files."""
        body = self._body()
        if not self._is_allowed():
            return
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            self._answer(200, {"warnings": [], "errors": []})
        elif "/branch/" in self.path:
            self.hub.branches.append(self.path.rpartition("/")[2])
            self._answer(200, {})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self._answer(200, {"files": [self._mode(name) for name in names]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._answer(200, self._batch(json.loads(body)["objects"]))
        elif "/commit/" in self.path:
            self._commit(body)
        else:
            self._answer(404, {"error": f"no {self.path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.files:
            self._answer(409, {"error": "exists", "url": f"{self.hub.address}/{name}"})
            return
        self.hub.files[name], self.hub.private[name] = {}, wanted["visibility"] == "private"
        self._answer(200, {"url": f"{self.hub.address}/{name}"})

    def _mode(self, name: str) -> dict[str, Any]:
        mode = "lfs" if name.endswith(".safetensors") else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": False}

    def _batch(self, objects: list[dict[str, Any]]) -> dict[str, Any]:
        def one(wanted: dict[str, Any]) -> dict[str, Any]:
            digest = wanted["oid"]
            if digest in self.hub.objects:
                return wanted
            href = f"{self.hub.address}/objects/{digest}"
            return {**wanted, "actions": {"upload": {"href": href, "header": {}}}}

        return {"transfer": "basic", "objects": [one(wanted) for wanted in objects]}

    def _commit(self, body: bytes) -> None:
        if self.hub.fail:
            self.hub.fail -= 1
            self._answer(500, {"error": "broken"})
            return
        match = re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path)
        assert match
        files = self.hub.files[match[1]]
        for line in body.decode().splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        oid = f"{len(self.hub.commits):040d}"
        url = f"{self.hub.address}/{match[1]}/commit/{oid}"
        self._answer(200, {"commitOid": oid, "commitUrl": url, "success": True})

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer(401, {"error": "Invalid credentials"})
        return False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

"""An S3 in a process of its own on this machine: moto, one request at a time.

    python -m tests.s3_server PORT

moto checks a condition and then writes in two steps that another request may come between, which a
real S3 does not let happen; so requests take turns. Bodies are read before that, since a client may
break off in one.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from socket import socket
from threading import Lock
from typing import Any
from unittest.mock import patch

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_START_S = 60.0


def s3_client(address: str, connections: int = 10) -> Any:
    """A client of such a server, as the product makes its own."""
    from storage.s3_calls import make_client

    with patch.dict(os.environ, CREDENTIALS):
        return make_client(address, connections=connections)


@contextmanager
def s3_process() -> Iterator[str]:
    """The address of an S3 that lives as long as the block."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | CREDENTIALS | {"S3_UPLOAD_PART_MIN_SIZE": "1024"}
    command = [sys.executable, "-m", "tests.s3_server", str(port)]
    server = subprocess.Popen(command, env=environ, cwd=Path(__file__).parent.parent)
    try:
        _wait_for(server, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(int(_START_S / 0.05)):
        assert server.poll() is None, "the S3 server ended"
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/moto-api/")
            if connection.getresponse().status:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise TimeoutError("the S3 server does not answer")


class _InTurn:
    """A WSGI application that does one request at a time."""

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        self._inner = inner
        self._lock = Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        environ["wsgi.input"] = io.BytesIO(body)
        with self._lock:
            return list(self._inner(environ, start_response))


def main() -> None:
    import logging

    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").disabled = True
    application = _InTurn(DomainDispatcherApplication(create_backend_app))
    make_server(
        "127.0.0.1", int(sys.argv[1]), application, threaded=True,
        request_handler=MotoRequestHandler,
    ).serve_forever()  # fmt: skip


if __name__ == "__main__":
    main()

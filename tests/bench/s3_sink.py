"""As little of an S3 as a client can be measured with: it takes bytes, and gives as many zeros.

    python -m tests.bench.s3_sink PORT LATENCY_MS

moto spends far more on a large body than any client does. This keeps sizes alone, in memory: puts,
uploads in parts, reads of ranges, heads. It checks nothing, so nothing it says proves more than
speed.
"""

from __future__ import annotations

import re
import socketserver
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Lock
from urllib.parse import parse_qs, urlsplit

_CHUNK_BYTES = 1 << 20
_ZEROS = memoryview(bytes(_CHUNK_BYTES))
_TAG = '"0123456789abcdef0123456789abcdef"'


@dataclass
class Sizes:
    """How large things are."""

    objects: dict[str, int] = field(default_factory=dict)
    parts: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    lock: Lock = field(default_factory=Lock)


SIZES = Sizes()


class Handler(BaseHTTPRequestHandler):
    """One client's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        """An object, or a part of one."""
        path, query = self._split()
        size_bytes = self._take_body()
        with SIZES.lock:
            if "uploadId" in query:
                SIZES.parts[query["uploadId"][0]][int(query["partNumber"][0])] = size_bytes
            else:
                SIZES.objects[path] = size_bytes
        self._say(200, headers={"ETag": _TAG})

    def do_POST(self) -> None:
        """The beginning and the end of an upload in parts."""
        path, query = self._split()
        self._take_body()
        with SIZES.lock:
            if "uploadId" not in query:
                upload = f"upload-{len(SIZES.parts)}"
                SIZES.parts[upload] = {}
            else:
                upload = query["uploadId"][0]
                SIZES.objects[path] = sum(SIZES.parts[upload].values())
        self._say(
            200,
            f"<R><UploadId>{upload}</UploadId><ETag>{_TAG}</ETag><Key>{path[1:]}</Key></R>",
        )

    def do_HEAD(self) -> None:
        """An object's size."""
        self._send_head(200, SIZES.objects[self._split()[0]])

    def do_GET(self) -> None:
        """An object, or a range of it."""
        size_bytes = SIZES.objects[self._split()[0]]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send_head(200, size_bytes)
            return self._give(size_bytes)
        start, last = int(wanted[1]), min(int(wanted[2] or size_bytes), size_bytes - 1)
        self._send_head(
            206, last + 1 - start, {"Content-Range": f"bytes {start}-{last}/{size_bytes}"}
        )
        return self._give(last + 1 - start)

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _split(self) -> tuple[str, dict[str, list[str]]]:
        address = urlsplit(self.path)
        return address.path, parse_qs(address.query, keep_blank_values=True)

    def _take_body(self) -> int:
        size_bytes = left = int(self.headers.get("Content-Length", 0))
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while left:
            left -= self.rfile.readinto(buffer[: min(left, _CHUNK_BYTES)])
        return size_bytes

    def _give(self, size_bytes: int) -> None:
        while size_bytes:
            count = min(size_bytes, _CHUNK_BYTES)
            self.connection.sendall(_ZEROS[:count])
            size_bytes -= count

    def _say(self, status: int, body: str = "", headers: dict[str, str] | None = None) -> None:
        self._send_head(status, len(body), headers)
        self.wfile.write(body.encode())

    def _send_head(
        self, status: int, size_bytes: int, headers: dict[str, str] | None = None
    ) -> None:
        time.sleep(float(sys.argv[2]) / 1000)
        self.send_response(status)
        for name, value in ({"ETag": _TAG} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size_bytes))
        self.end_headers()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


def main() -> None:
    with _Server(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()

"""A Ray as an operator starts it, with a token: one node of four cores, with a dashboard."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import guardian

_PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
    "runtime-env-agent-port", "metrics-export-port", "ray-client-server-port",
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A running cluster of one node."""

    url: str
    token: str
    environment: Mapping[str, str]
    """Of its clients."""
    folder: Path

    def command(self, *arguments: str) -> list[str]:
        """How `raysmith` is started, in `environment`."""
        return [sys.executable, "-m", "jobs.cli", *arguments]

    def raysmith(self, folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        """Runs a command in a folder; gives its exit code, and all that it said."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=folder,
            env={**self.environment, "PYTHONSAFEPATH": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert self.token not in done.stdout
        return done.returncode, done.stdout


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def ray_head(settings: Mapping[str, str] | None = None) -> Iterator[Head]:
    """Starts one for a `with` block; `settings` are environment variables of all its processes."""
    # Ray's sockets lie in here, whose paths have room for about 100 characters.
    folder = Path(f"/tmp/raysmith-test-{secrets.token_hex(4)}")
    folder.mkdir()
    token = secrets.token_hex(32)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **(settings or {}),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        guardian.MARK: str(folder),
    }
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    options = [f"--{name}={port}" for name, port in ports.items()]
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=4",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}",
        "--object-store-memory=200000000", "--disable-usage-stats", *options,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        # Commands are those of a client, and not of the cluster.
        client = {name: value for name, value in environment.items() if name != guardian.MARK}
        yield Head(f"http://127.0.0.1:{ports['dashboard-port']}", token, client, folder)
    finally:
        guardian.end(folder)

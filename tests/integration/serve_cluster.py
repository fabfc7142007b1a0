"""A Ray of its own, to which Serve configs are handed as an operator or KubeRay does."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.ray_head import free_ports

START_S = 120
DEPLOY_S = 240


@dataclass
class ServeCluster:
    """A head node, and where Serve's proxy listens."""

    process: subprocess.Popen[bytes]
    dashboard: str
    port: int
    token: str
    folder: Path
    log: Path

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, args: dict[str, Any]) -> None:
        """Hands Serve a config with these arguments of the application, with `serve deploy`."""
        application = {
            "name": "bot",
            "import_path": "workloads.serve.app:build",
            "route_prefix": "/",
            "args": args,
        }
        listen = {"host": "127.0.0.1", "port": self.port}
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump({"http_options": listen, "applications": [application]}))
        subprocess.run(
            [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file), "-a", self.dashboard],
            check=True,
            capture_output=True,
        )

    def status(self) -> dict[str, Any]:
        """What Serve says of the application."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)["applications"]["bot"]
            return found

    def until(self, state: str) -> str:
        """Waits until the application is in a state, and gives Serve's message on it."""
        deadline = time.monotonic() + DEPLOY_S
        while (status := self.status())["status"] != state:
            assert time.monotonic() < deadline, status
            time.sleep(0.2)
        return str(status["message"])

    def replicas(self) -> set[int]:
        """The processes of the replicas that are up."""
        found = self.status()["deployments"]["replica"]["replicas"]
        return {replica["pid"] for replica in found if replica["state"] == "RUNNING"}


@contextmanager
def serve_cluster(
    folder: Path, environment: dict[str, str], cpus: int = 2
) -> Iterator[ServeCluster]:
    """Starts Ray as `ray start --head` does, for a `with` block."""
    ports = free_ports(5)
    token, log = secrets.token_hex(32), folder / "ray.log"
    # Ray's sockets lie in here, whose paths have room for about 100 characters.
    scratch = tempfile.mkdtemp(prefix="serve-", dir="/tmp")
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    settings = [f"--{name}={port}" for name, port in zip(names, ports, strict=False)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", f"--temp-dir={scratch}"),
                *settings,
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **environment,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": token,
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            },
            start_new_session=True,
        )
    before = os.environ.get("RAY_AUTH_TOKEN")
    os.environ["RAY_AUTH_TOKEN"] = token
    dashboard = f"http://127.0.0.1:{ports[1]}"
    try:
        _await(dashboard, process, log)
        yield ServeCluster(process, dashboard, ports[4], token, folder, log)
    finally:
        if before is None:
            del os.environ["RAY_AUTH_TOKEN"]
        else:
            os.environ["RAY_AUTH_TOKEN"] = before
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _await(dashboard: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with suppress(OSError), urllib.request.urlopen(dashboard, timeout=5):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "Ray takes too long to start"
        time.sleep(0.2)

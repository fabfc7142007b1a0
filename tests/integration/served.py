"""A service of `raysmith run`, started as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

START_S = 240

KEY = "correct-horse-battery-staple"


@dataclass(frozen=True)
class Served:
    """A service that answers."""

    url: str
    storage: Path
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, key: str | None = KEY) -> httpx.Client:
        """An HTTP client of it, with its key or another."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def healthy(self) -> bool:
        """Whether it lives, and its replica too."""
        with self.client() as client:
            return self.process.poll() is None and client.get("/health").status_code == 200


@contextmanager
def served(model: Path, folder: Path, settings: str = "") -> Iterator[Served]:
    """Serves a model as `tiny` for a `with` block, on a free port, behind `KEY`.

    `settings` are further lines of the stage.
    """
    spec = folder / "job.yaml"
    spec.write_text(f"""
version: 1
name: tiny
stages:
  api:
    kind: serve
    model: {model}
    port: 0
    cpus_per_replica: 1
    engine: {{kv_cache: 64MB, torch_dtype: float32, max_num_seqs: 16}}
    auth: {{api_key: "${{secret:TINY_KEY}}"}}
    {settings}
""")
    storage, log = folder / "runs", folder / "run.log"
    command = [sys.executable, "-m", "jobs.cli", "run", str(spec), "--storage", str(storage)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TINY_KEY": KEY},
            start_new_session=True,
        )
        try:
            yield Served(_url(storage, process, log), storage, process, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            finally:
                process.kill()


def _url(storage: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while not (found := list(storage.glob("*/*/stages/*/attempt_*/service.json"))):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "the service takes too long to start"
        time.sleep(0.1)
    return str(json.loads(found[0].read_text())["url"])

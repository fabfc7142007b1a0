"""A service for tests: `raysmith run` in a process of its own, asked as any client would."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

COMMAND = [sys.executable, "-m", "jobs.cli"]
READY_S = 240


@dataclass
class Service:
    """A service that answers."""

    process: subprocess.Popen[str]
    storage: Path
    url: str

    def get(self, path: str) -> Any:
        """What is answered to a GET, as JSON."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What is answered to a POST, as JSON."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def text(self, prompt: Any, model: str = "tiny", **more: Any) -> Any:
        """The greedy completion of 32 tokens."""
        body = {"prompt": prompt, "max_tokens": 32, "temperature": 0, "ignore_eos": True}
        return self.post("/v1/completions", body | {"model": model} | more)

    def replicas(self) -> list[psutil.Process]:
        """The replicas' processes."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in family if "ServeReplica" in " ".join(child.cmdline())]

    def update(self, model: Path) -> subprocess.Popen[str]:
        """Starts `raysmith update`."""
        command = [*COMMAND, "update", "--model", str(model), "--storage", str(self.storage)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ask_many(self, count: int, at_once: int, meanwhile: Callable[[], None]) -> list[Any]:
        """Asks many times, and does something once a third is answered.

        Returns the status of each request, or the error that its client met.
        """
        return asyncio.run(self._ask_many(count, at_once, meanwhile))

    async def _ask_many(self, count: int, at_once: int, meanwhile: Callable[[], None]) -> list[Any]:
        import aiohttp

        results: list[Any] = []
        room = asyncio.Semaphore(at_once)

        async def one(session: aiohttp.ClientSession, number: int) -> None:
            body = {"prompt": [number % 200 + 3] * 4, "max_tokens": 4, "ignore_eos": True}
            async with room:
                try:
                    async with session.post(f"{self.url}/v1/completions", json=body) as answer:
                        await answer.read()
                        results.append(answer.status)
                except aiohttp.ClientError as error:
                    results.append(type(error).__name__)
            if len(results) == count // 3:
                await asyncio.to_thread(meanwhile)

        timeout = aiohttp.ClientTimeout(total=200)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(one(session, number) for number in range(count)))
        return results


def spec(model: Path | str, more: str = "", engine: str = "torch_dtype: float32") -> str:
    """A job that serves a model."""
    return f"""
version: 1
name: tiny
stages:
  serve:
    kind: serve
    model: {model}
    port: 0
    cpus_per_replica: 1
    engine: {{max_model_len: 256, max_num_seqs: 8, kv_cache: 100MB, {engine}}}
{more}
"""


@contextmanager
def served(folder: Path, job: str) -> Iterator[Service]:
    """A service that is up; it is killed with the block if it has not ended by then."""
    file, storage = folder / "job.yaml", folder / "runs"
    file.write_text(job)
    process = subprocess.Popen(
        [*COMMAND, "run", str(file), "--storage", str(storage)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield Service(process, storage, _url(process, storage))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _url(process: subprocess.Popen[str], storage: Path) -> str:
    deadline = time.monotonic() + READY_S
    while not (found := list(storage.glob("tiny/*/stages/serve/attempt_*/service.json"))):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the service did not start:\n{process.communicate()[0]}")
        time.sleep(0.1)
    service: dict[str, Any] = json.loads(found[0].read_text())
    return str(service["url"])

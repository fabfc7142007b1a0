"""Speed of `kind: serve` against vLLM's own server: same model, settings, threads and requests.

    python -m tests.bench.serve_throughput [--rounds 3] [--requests 64] [--whole] [--app]

Both serve the bundled SmolLM2-135M from one engine. They are started, asked and ended in turn,
which evens out what else the machine does. Every request has 64 tokens of its own and is answered
with 64. Besides tokens per second: the 99th percentile of latency, and the mean time to the first
token, which only streams have. With `--app`, the stage behind Serve's own HTTP proxy, as on a
cluster, is compared with that of `raysmith run`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONCURRENCY = (8, 16)
TOKENS, CONTEXT, SEQUENCES = 64, 1024, 16
MODEL = "smollm2-135m-instruct"
KEY = "bench"
SPEC = """
version: 1
name: bench
stages:
  serve:
    kind: serve
    model: {model}
    port: 0
    cpus_per_replica: {threads}
    engine: {{max_model_len: {context}, max_num_seqs: {sequences}, torch_dtype: bfloat16}}
"""


@dataclass(frozen=True)
class Measured:
    """What one server did with one load."""

    tokens_per_second: float
    p99_s: float
    first_token_s: float

    def __str__(self) -> str:
        return (
            f"{self.tokens_per_second:6.1f} tokens/s, p99 {self.p99_s:.2f} s, first token "
            f"{self.first_token_s:.3f} s"
        )


def main() -> None:
    """Measures, and prints a line for each load and each server, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--whole", action="store_true", help="Ask for whole answers, no streams.")
    parser.add_argument("--app", action="store_true", help="Compare what Serve starts by itself.")
    options = parser.parse_args()
    stream = not options.whole
    results: dict[tuple[str, int], list[Measured]] = {}
    ours, theirs = ("app", "raysmith") if options.app else ("raysmith", "vllm")
    known = {"app": app, "raysmith": raysmith, "vllm": vllm}
    servers = {name: known[name] for name in (ours, theirs)}
    for number in range(options.rounds):
        for name, server in list(servers.items())[:: -1 if number % 2 else 1]:
            with (
                tempfile.TemporaryDirectory() as scratch,
                server(Path(scratch), options.threads) as url,
            ):
                for concurrency in CONCURRENCY:
                    asyncio.run(load(url, concurrency, concurrency, stream, seed=-1))
                    measured = asyncio.run(
                        load(url, concurrency, options.requests, stream, seed=number)
                    )
                    results.setdefault((name, concurrency), []).append(measured)
                    print(f"{concurrency:2} at once, {name:8}: {measured}", flush=True)
    for concurrency in CONCURRENCY:
        print(ratios(results[ours, concurrency], results[theirs, concurrency], concurrency))


def ratios(ours: list[Measured], theirs: list[Measured], concurrency: int) -> str:
    """How the medians compare."""

    def ratio(field: str) -> float:
        return statistics.median(getattr(each, field) for each in ours) / statistics.median(
            getattr(each, field) for each in theirs
        )

    return (
        f"{concurrency:2} at once, ratio of medians: throughput {ratio('tokens_per_second'):.3f} "
        f"(0.95 at least), p99 {ratio('p99_s'):.3f}, first token {ratio('first_token_s'):.3f} "
        "(1.10 at most)"
    )


async def load(url: str, concurrency: int, requests: int, stream: bool, seed: int) -> Measured:
    """Asks so many requests, so many of them at once."""
    import aiohttp

    latencies: list[float] = []
    firsts: list[float] = []
    gate = asyncio.Semaphore(concurrency)

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        # Nothing is to be had from the prefix cache.
        prompt = [(seed * 7919 + number * 104729 + i * 31) % 40_000 + 100 for i in range(TOKENS)]
        body = {
            "model": "bench", "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True,
            "temperature": 0, "stream": stream,
        }  # fmt: skip
        async with gate:
            began = time.perf_counter()
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                first = None
                async for _ in answer.content.iter_any():
                    first = first or time.perf_counter() - began
            latencies.append(time.perf_counter() - began)
            firsts.append(first or 0.0)

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers
    ) as session:
        began = time.perf_counter()
        await asyncio.gather(*(one(session, number) for number in range(requests)))
        took = time.perf_counter() - began
    p99 = statistics.quantiles(latencies, n=100, method="inclusive")[98]
    return Measured(requests * TOKENS / took, p99, statistics.mean(firsts))


@contextmanager
def raysmith(scratch: Path, threads: int) -> Iterator[str]:
    """Our service; gives its URL."""
    job = scratch / "job.yaml"
    job.write_text(SPEC.format(model=MODEL, threads=threads, context=CONTEXT, sequences=SEQUENCES))
    command = [sys.executable, "-m", "jobs.cli", "run", str(job), "--storage", str(scratch)]
    with running(command, scratch / "raysmith.log") as process:
        pattern = "bench/*/stages/serve/attempt_1/service.json"
        while not (found := list(scratch.glob(pattern))):
            wait(process)
        service: dict[str, Any] = json.loads(found[0].read_text())
        yield service["url"]


@contextmanager
def app(scratch: Path, threads: int) -> Iterator[str]:
    """The same stage, which Serve starts from its config; gives its proxy's URL."""
    from tests.integration.serve_cluster import serve_cluster

    engine = {"max_model_len": CONTEXT, "max_num_seqs": SEQUENCES, "torch_dtype": "bfloat16"}
    spec = {
        "kind": "serve", "model": MODEL, "cpus_per_replica": threads, "engine": engine,
        "auth": {"api_key": "${secret:BENCH_KEY}"},
    }  # fmt: skip
    with serve_cluster(scratch, {"BENCH_KEY": KEY}, threads) as cluster:
        cluster.deploy({"job": "bench", "storage": str(scratch), "stage": "serve", "spec": spec})
        cluster.until("RUNNING")
        yield cluster.url


@contextmanager
def vllm(scratch: Path, threads: int) -> Iterator[str]:
    """vLLM's own server with the same engine; gives its URL."""
    import urllib.error
    import urllib.request

    from workloads.engine import engine_environment
    from workloads.models.local import localize
    from workloads.models.resolve import resolve_model

    port = free_port()
    command = [
        sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server",
        "--host", "127.0.0.1", "--port", str(port),
        "--model", localize(resolve_model(MODEL, ())), "--served-model-name", "bench",
        "--dtype", "bfloat16", "--seed", "42", "--enforce-eager",
        "--max-model-len", str(CONTEXT), "--max-num-seqs", str(SEQUENCES),
        "--kv-cache-memory-bytes", str(10**9), "--disable-uvicorn-access-log",
    ]  # fmt: skip
    environment = engine_environment(on_gpu=False, threads=threads, kv_cache_bytes=10**9)
    url = f"http://127.0.0.1:{port}"
    with running(command, scratch / "vllm.log", environment) as process:
        while True:
            wait(process)
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                continue
        yield url


@contextmanager
def running(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is asked to end with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **(environment or {})}
        )
        try:
            yield process
        except SystemExit:
            sys.stderr.write(log.read_text(errors="replace")[-5000:])
            raise
        finally:
            process.terminate()
            process.wait(60)


def wait(process: subprocess.Popen[bytes]) -> None:
    """Waits a moment for a process that must not have ended."""
    time.sleep(0.2)
    if process.poll() is not None:
        raise SystemExit("a server did not start")


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()

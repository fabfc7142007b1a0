"""How fast a checkpoint goes to S3 and back, against plain boto3 in the same run.

    python -m tests.bench.s3_transfer [--size-mb 1024] [--files 8] [--rounds 3] [--latency-ms 0]

The server is a process on this machine that keeps no bytes, see `tests.bench.s3_sink`: with moto,
one measures moto. Both sides do the same: multipart, several requests at a time, checksums that a
server could check. boto3's files go one after another through `upload_file` and `download_file`
with as many threads as ours has in all; "boto3, files together" has a thread per file besides. The
ways take turns, and the best round of each counts. Ours also computes each file's sha256. Without
latency all is bound by this machine's cores, which a network rarely lets happen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_connection, socket
from typing import Any
from unittest.mock import patch

from storage.s3 import PART_BYTES, THREADS, S3Backend
from storage.s3_calls import make_client
from storage.transfer import download_folder, upload_folder
from tests.s3_server import CREDENTIALS

_MB = 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=int, default=1024)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="s3-transfer-"))
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sink = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.s3_sink", str(port), str(options.latency_ms)]
    )
    try:
        _wait_for(port)
        with patch.dict(os.environ, CREDENTIALS):
            return _measure(f"http://127.0.0.1:{port}", folder, options)
    finally:
        sink.terminate()
        sink.wait()
        shutil.rmtree(folder)


def _measure(address: str, folder: Path, options: argparse.Namespace) -> int:
    from boto3.s3.transfer import TransferConfig

    names = [f"part-{number}" for number in range(options.files)]
    size_bytes = options.size_mb * 2**20 // options.files
    for name in names:
        (folder / name).write_bytes(os.urandom(2**20) * (size_bytes // 2**20))
    client = make_client(address, connections=2 * THREADS)
    ours = S3Backend(client, "ours", "run")
    config = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=THREADS
    )
    entries = upload_folder(ours, "ckpt/", folder, names)
    back = folder / "back"

    def boto3_up(name: str) -> None:
        client.upload_file(str(folder / name), "theirs", name, Config=config)

    def boto3_down(name: str) -> None:
        client.download_file("theirs", name, str(back / name), Config=config)

    def one_range_after_another() -> None:
        alone = S3Backend(client, "ours", "run", threads=1)
        download_folder(alone, "ckpt/", back, entries, threads=1)

    ways: dict[str, Callable[[], Any]] = {
        "up, ours": lambda: upload_folder(ours, "ckpt/", folder, names),
        "up, boto3": lambda: list(map(boto3_up, names)),
        "up, boto3, files together": lambda: _together(boto3_up, names),
        "down, ours": lambda: download_folder(ours, "ckpt/", back, entries),
        "down, boto3": lambda: list(map(boto3_down, names)),
        "down, boto3, files together": lambda: _together(boto3_down, names),
        "down, one range after another": one_range_after_another,
    }
    best: dict[str, float] = {}
    cpu: dict[str, float] = {}
    for _ in range(options.rounds):
        for way, action in ways.items():
            back.mkdir(exist_ok=True)
            started, worked = time.perf_counter(), time.process_time()
            action()
            best[way] = min(best.get(way, 1e9), time.perf_counter() - started)
            cpu[way] = min(cpu.get(way, 1e9), time.process_time() - worked)
            shutil.rmtree(back)
    total = size_bytes * len(names)
    for way, took_s in best.items():
        speed = f"{total / took_s / _MB:7.0f} MB/s"
        print(f"{way:32} {took_s:6.2f} s {speed}, of which the client works {cpu[way]:.2f} s")
    ratios = {
        way: min(best[other] for other in best if other.startswith(f"{way}, boto3"))
        / best[f"{way}, ours"]
        for way in ("up", "down")
    }
    for way, ratio in ratios.items():
        print(f"{way}: {ratio:.2f} of the speed of the faster boto3")
    print(
        f"down: {best['down, one range after another'] / best['down, ours']:.2f} times as fast as "
        "one range after another"
    )
    return 0 if min(ratios.values()) >= 0.8 else 1


def _together(action: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(action, names))


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the sink does not answer")


if __name__ == "__main__":
    sys.exit(main())

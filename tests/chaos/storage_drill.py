"""Operations of several clients at once on one S3, compared with a model in memory.

Each client has keys of its own, of which it knows all; and all compete for locks, count with one
counter, and look at one object that one of them writes over again and again.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from jobs.errors import RaysmithError
from storage.backend import MissingKey
from storage.s3 import S3Backend
from storage.s3_calls import Patience
from tests.s3_server import s3_client

CLIENTS = 4
PART_BYTES = 512 * 1024
_LARGEST_FILE = 6 * PART_BYTES
_PREFIX = "runs"
_NAMES = ("a", "b", "c/d", "c/e", "f/g/h")


@dataclass
class _Shared:
    """What the clients tell about the things that they share."""

    winners: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    tried: set[str] = field(default_factory=set)
    counted: int = 0
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)


class Drill:
    """Clients that go by the address `through`, and one that looks at `direct` what is there."""

    def __init__(self, direct: str, through: str, seed: int, *, retries: bool = True) -> None:
        self._seed = seed
        bucket = f"drill-{secrets.token_hex(6)}"
        patience = Patience(60 if retries else 0, 60, first_pause_s=0.01, longest_pause_s=0.2)
        self._client = s3_client(direct)
        self._clients = [s3_client(through, connections=16) for _ in range(CLIENTS)]
        self._client.create_bucket(Bucket=bucket)
        self._bucket = bucket
        self._backends = [
            S3Backend(each, bucket, _PREFIX, patience, threads=4, part_bytes=PART_BYTES)
            for each in self._clients
        ]
        self._shared = _Shared()

    @property
    def done(self) -> Counter[str]:
        """How many operations of each kind were done."""
        return self._shared.done

    def run(self, operations: int) -> list[str]:
        """Does so many operations, and tells what is not as it should be."""
        folder = Path(tempfile.mkdtemp(prefix="drill-"))
        self._backends[0].write_bytes("counter", json.dumps({"count": 0, "last": {}}).encode())
        workers = [
            _Client(index, backend, random.Random(f"{self._seed}-{index}"), folder, self._shared)
            for index, backend in enumerate(self._backends)
        ]
        try:
            with ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(lambda worker: worker.run(operations // CLIENTS), workers))
        finally:
            shutil.rmtree(folder)
        if not self._shared.wrong:
            self._check(workers)
        return self._shared.wrong

    def _check(self, workers: list[_Client]) -> None:
        found = S3Backend(self._client, self._bucket, _PREFIX)
        shared, wrong = self._shared, self._shared.wrong
        there = {entry.key: entry.size_bytes for entry in found.list("")}
        expected = {key: data for worker in workers for key, data in worker.model.items()}
        if own := {key for key in there if key.startswith("client-")} ^ set(expected):
            wrong.append(f"keys too many or too few: {sorted(own)}")
        for key, data in expected.items():
            if key in there and (found.read_bytes(key) != data or there[key] != len(data)):
                wrong.append(f"{key} is not what was written last")
        for key in sorted(shared.tried):
            winners = shared.winners[key]
            if len(winners) != 1 or found.read_bytes(key) != winners[0]:
                wrong.append(f"{key} has {len(winners)} winners, or is another's")
        count = json.loads(found.read_bytes("counter"))["count"]
        if count != shared.counted:
            wrong.append(f"the counter is at {count}, {shared.counted} were counted")
        unfinished = self._client.list_multipart_uploads(Bucket=self._bucket).get("Uploads", ())
        wrong += [f"an upload of {each['Key']} was abandoned" for each in unfinished]


@dataclass
class _Client:
    index: int
    backend: S3Backend
    random: random.Random
    folder: Path
    shared: _Shared
    model: dict[str, bytes] = field(default_factory=dict)
    """What should be there of the client's own keys."""
    serial: int = 0

    def run(self, operations: int) -> None:
        kinds: dict[Callable[[], None], int] = {
            self.write: 4, self.read: 4, self.range: 3, self.list: 3, self.exists: 1,
            self.delete: 2, self.delete_folder: 1, self.create: 2, self.upload: 3,
            self.download: 3, self.contend: 3, self.count: 4, self.share: 2,
        }  # fmt: skip
        chosen = self.random.choices(list(kinds), list(kinds.values()), k=operations)
        for action in chosen:
            try:
                action()
            except (RaysmithError, AssertionError) as error:
                with self.shared.lock:
                    self.shared.wrong.append(f"client {self.index}: {action.__name__}: {error!r}")
                return
            with self.shared.lock:
                self.shared.done[action.__name__] += 1

    def write(self) -> None:
        key, data = self._key(), self._data(2000)
        self.backend.write_bytes(key, data)
        self.model[key] = data

    def read(self) -> None:
        key = self._key()
        assert self._or_missing(lambda: self.backend.read_bytes(key)) == self.model.get(key)

    def range(self) -> None:
        key = self._key()
        start, length = self.random.randrange(3000), self.random.randrange(PART_BYTES)
        whole = self.model.get(key)
        expected = None if whole is None else whole[start : start + length]
        assert self._or_missing(lambda: self.backend.read_range(key, start, length)) == expected

    def list(self) -> None:
        mine = f"client-{self.index}/"
        found = {entry.key: entry.size_bytes for entry in self.backend.list(mine)}
        assert found == {key: len(data) for key, data in self.model.items()}
        names = {key.removeprefix(mine) for key in found}
        folders = {name.partition("/")[0] for name in names if "/" in name}
        assert self.backend.folders(mine) == tuple(sorted(folders))

    def exists(self) -> None:
        key = self._key()
        assert self.backend.exists(key) == (key in self.model)

    def delete(self) -> None:
        key = self._key()
        self.backend.delete(key)
        self.model.pop(key, None)

    def delete_folder(self) -> None:
        folder = f"client-{self.index}/c/"
        self.backend.delete_prefix(folder)
        self.model = {k: v for k, v in self.model.items() if not k.startswith(folder)}

    def create(self) -> None:
        key, data = self._key(), self._data(200)
        assert self.backend.create(key, data) == (key not in self.model)
        self.model.setdefault(key, data)

    def upload(self) -> None:
        key, data = self._key(), self._data(_LARGEST_FILE)
        path = self.folder / f"up-{self.index}"
        path.write_bytes(data)
        assert self.backend.upload(path, key).size_bytes == len(data)
        self.model[key] = data

    def download(self) -> None:
        key, path = self._key(), self.folder / f"down-{self.index}"

        def fetch() -> bytes:
            self.backend.download(key, path)
            return path.read_bytes()

        assert self._or_missing(fetch) == self.model.get(key)

    def contend(self) -> None:
        """Tries to take a lock that the others try to take too."""
        self.serial += 1
        key, data = f"locks/{self.serial:04}", f"client {self.index}, {self.serial}".encode()
        won = self.backend.create(key, data)
        with self.shared.lock:
            self.shared.tried.add(key)
            if won:
                self.shared.winners[key].append(data)

    def count(self) -> None:
        """Adds one to the counter, whose content tells whose additions are in it."""
        self.serial += 1
        me, mark = str(self.index), self.serial
        while True:
            seen = self.backend.read_tagged("counter")
            state: dict[str, Any] = json.loads(seen.data)
            if state["last"].get(me) == mark:
                break  # it was added, and then another's, before the answer came that was not lost
            state = {"count": state["count"] + 1, "last": state["last"] | {me: mark}}
            if self.backend.replace("counter", json.dumps(state).encode(), seen.tag) is not None:
                break
        with self.shared.lock:
            self.shared.counted += 1

    def share(self) -> None:
        """The first client writes an object of many parts; all look whether it is ever half one."""
        path = self.folder / f"shared-{self.index}"
        if self.index == 0:
            path.write_bytes(secrets.token_bytes(16) * (PART_BYTES * 3 // 16))
            self.backend.upload(path, "shared")
            return

        def fetch() -> bytes:
            self.backend.download("shared", path)
            return path.read_bytes()

        data = self._or_missing(fetch)
        assert data is None or data == data[:16] * (PART_BYTES * 3 // 16)

    def _key(self) -> str:
        return f"client-{self.index}/{self.random.choice(_NAMES)}"

    def _data(self, most: int) -> bytes:
        return os.urandom(self.random.randrange(1, most))

    @staticmethod
    def _or_missing(read: Callable[[], bytes]) -> bytes | None:
        try:
            return read()
        except MissingKey:
            return None

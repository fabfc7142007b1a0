"""Files to and from S3: large ones in parts, several at a time.

All requests of a backend that carry a body share one bound, on their number and thereby on the
memory that they take, whether they belong to one large file or to many small ones.

An upload in parts is seen by nobody until its last request. Whether that one took effect when its
answer was lost is told by a random mark in the object's metadata. The request that begins an upload
may take effect unseen too, and leave one that nobody knows: after a doubtful beginning, other
uploads of the same key are ended, for which reason a key has one uploader at a time. One that is
ended so by mistake begins again.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, BinaryIO, Final

from jobs.errors import RaysmithError, StorageError, StorageRefused
from storage.disk_errors import disk_errors
from storage.durable import replace_file
from storage.s3_calls import Calls, Patience
from storage.s3_errors import BEYOND_END, CONDITION_NOT_MET, code_of

_MARK: Final = "raysmith-upload"
_MOST_PARTS: Final = 10_000
_CHUNK_BYTES: Final = 1 << 20
_TRIES: Final = 3


class AbsentObject(Exception):
    """There is nothing to download."""


class _UploadGone(Exception):
    """Somebody else ended the upload."""


class _Changed(Exception):
    """The object was written over while it was read."""


@dataclass(frozen=True)
class Sent:
    """What was uploaded."""

    size_bytes: int
    sha256: str


class Buffers:
    """Room for parts, used again while uploads go on: fresh memory costs more than a checksum."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._free: list[bytearray] = []
        self._users = 0
        self._lock = Lock()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Keeps what is given back as long as one such block lasts."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._free.clear()

    def take(self, size_bytes: int) -> bytearray:
        """A buffer of this size, with anything in it."""
        with self._lock:
            if size_bytes == self._size_bytes and self._free:
                return self._free.pop()
        return bytearray(size_bytes)

    def give_back(self, buffer: bytearray) -> None:
        """Nobody uses the buffer any more."""
        with self._lock:
            if self._users and len(buffer) == self._size_bytes:
                self._free.append(buffer)


class Transfers:
    """Uploads to and downloads from one bucket. For many threads at once."""

    def __init__(
        self, client: Any, bucket: str, patience: Patience, threads: int, part_bytes: int
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._calls = Calls(patience)
        # What only tidies up must not keep anybody waiting.
        brief_s = min(patience.brief_s, patience.budget_s)
        self._brief_calls = Calls(replace(patience, budget_s=brief_s))
        self._threads = threads
        self._part_bytes = part_bytes
        self._slots = BoundedSemaphore(threads)
        self._buffers = Buffers(part_bytes)

    def put(self, key: str, data: bytes | bytearray, **conditions: str) -> str:
        """One request that writes the object whole; its tag. Raises the library's errors."""
        answer = self._client.put_object(
            Bucket=self._bucket, Key=key, Body=data, **self._checksum(data), **conditions
        )
        return str(answer["ETag"])

    def upload(self, path: Path, key: str) -> Sent:
        """Uploads a file. Raises StorageError, StorageRefused."""
        with disk_errors(path):
            file = path.open("rb", buffering=0)
        with file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes <= self._part_bytes:
                return self._upload_whole(file, path, size_bytes, key)
            for _ in range(_TRIES):
                file.seek(0)
                with suppress(_UploadGone), self._buffers.lent():
                    return self._upload_in_parts(file, path, size_bytes, key)
        raise StorageError(
            f"{self._place(key)}: the upload was ended by somebody else, {_TRIES} times",
            "let one writer at a time upload the object",
        )

    def download(self, key: str, path: Path) -> None:
        """Downloads an object. Raises AbsentObject, StorageError, StorageRefused."""
        for _ in range(_TRIES):
            with suppress(_Changed), disk_errors(path), replace_file(path) as file:
                self._fetch(key, file, path)
                return
        raise StorageError(
            f"{self._place(key)}: it was written over while it was read, {_TRIES} times",
            "wait until nobody writes it",
        )

    def abort(self, key: str, upload_id: str) -> None:
        """Ends an upload; nothing happens when there is none. Raises like `upload`."""
        self._abort(self._calls, key, upload_id)

    def _upload_whole(self, file: FileIO, path: Path, size_bytes: int, key: str) -> Sent:
        with self._slots:
            data = bytearray(size_bytes)
            _fill(data, file, path)
            self._calls("PutObject", self._place(key), lambda _: self.put(key, data))
        return Sent(size_bytes, hashlib.sha256(data).hexdigest())

    def _upload_in_parts(self, file: FileIO, path: Path, size_bytes: int, key: str) -> Sent:
        mark = secrets.token_hex(16)
        upload_id = None
        doubts: list[bool] = []
        digest = hashlib.sha256()
        try:
            upload_id = self._begin(key, mark, doubts)
            parts: list[dict[str, Any]] = []
            with self._working() as pool:
                futures: list[Future[dict[str, Any]]] = []
                part_bytes = max(self._part_bytes, -(-size_bytes // _MOST_PARTS))
                for start in range(0, size_bytes, part_bytes):
                    # Taken before the part is read, so that it bounds the memory too.
                    self._slots.acquire()
                    try:
                        _raise_first(futures)
                        data = self._buffers.take(min(part_bytes, size_bytes - start))
                        _fill(data, file, path)
                    except BaseException:
                        self._slots.release()
                        raise
                    number = len(futures) + 1
                    # Before it is sent: from then on another part may take its buffer.
                    digest.update(data)
                    futures.append(pool.submit(self._send_part, key, upload_id, number, data))
                parts = [future.result() for future in futures]
            self._complete(key, upload_id, parts, mark)
        except BaseException:
            if upload_id is not None:
                with suppress(RaysmithError):
                    self._abort(self._brief_calls, key, upload_id)
            raise
        finally:
            if True in doubts:
                self._end_others(key, upload_id)
        return Sent(size_bytes, digest.hexdigest())

    def _begin(self, key: str, mark: str, doubts: list[bool]) -> str:
        def attempt(unsure: bool) -> str:
            # A doubt counts also when no try ends well.
            doubts.append(True)
            algorithm = {"ChecksumAlgorithm": "CRC32"} if self._uses_crc() else {}
            answer = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, Metadata={_MARK: mark}, **algorithm
            )
            doubts[:] = [unsure]
            return str(answer["UploadId"])

        return self._calls("CreateMultipartUpload", self._place(key), attempt)

    def _send_part(self, key: str, upload_id: str, number: int, data: bytearray) -> dict[str, Any]:
        def attempt(_: bool) -> dict[str, Any]:
            try:
                answer = self._client.upload_part(
                    Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number,
                    Body=data, **self._checksum(data),
                )  # fmt: skip
            except self._client.exceptions.ClientError as error:
                if code_of(error) == "NoSuchUpload":
                    raise _UploadGone from error
                raise
            part = {"PartNumber": number, "ETag": answer["ETag"]}
            if checksum := answer.get("ChecksumCRC32"):
                part["ChecksumCRC32"] = checksum
            return part

        try:
            return self._calls("UploadPart", self._place(key), attempt)
        finally:
            self._buffers.give_back(data)
            self._slots.release()

    def _complete(self, key: str, upload_id: str, parts: list[dict[str, Any]], mark: str) -> None:
        def attempt(_: bool) -> None:
            try:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id,
                    MultipartUpload={"Parts": parts},
                )  # fmt: skip
            except self._client.exceptions.ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise
                if self._mark(key) != mark:
                    raise _UploadGone from error

        self._calls("CompleteMultipartUpload", self._place(key), attempt)

    def _mark(self, key: str) -> str | None:
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        except self._client.exceptions.ClientError as error:
            # Its answers have no body that says more.
            if code_of(error) == "404":
                return None
            raise
        mark: str | None = answer["Metadata"].get(_MARK)
        return mark

    def _abort(self, calls: Calls, key: str, upload_id: str) -> None:
        def attempt(_: bool) -> None:
            try:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id
                )
            except self._client.exceptions.ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise

        calls("AbortMultipartUpload", self._place(key), attempt)

    def _end_others(self, key: str, upload_id: str | None) -> None:
        with suppress(RaysmithError):
            answer = self._brief_calls(
                "ListMultipartUploads",
                self._place(key),
                lambda _: self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key),
            )
            for upload in answer.get("Uploads", ()):
                if upload["Key"] == key and upload["UploadId"] != upload_id:
                    self._abort(self._brief_calls, key, upload["UploadId"])

    def _fetch(self, key: str, file: BinaryIO, path: Path) -> None:
        """Writes the object's bytes to `file`, the first part first: its answer has the size."""
        target = _Target(file.fileno(), path)
        with self._slots:
            size_bytes, tag = self._fetch_part(key, target, 0, self._part_bytes, None)
        starts = range(self._part_bytes, size_bytes, self._part_bytes)
        if starts:
            with self._working() as pool:
                futures = [
                    pool.submit(self._fetch_bounded, key, target, start, tag) for start in starts
                ]
                for future in futures:
                    future.result()
        found = os.fstat(file.fileno()).st_size
        if found != size_bytes:
            raise StorageError(f"{self._place(key)}: {found} of {size_bytes} bytes came")

    def _fetch_bounded(self, key: str, target: _Target, start: int, tag: str) -> None:
        with self._slots:
            self._fetch_part(key, target, start, start + self._part_bytes, tag)

    def _fetch_part(
        self, key: str, target: _Target, start: int, end: int, tag: str | None
    ) -> tuple[int, str]:
        """Fetches bytes from `start` to `end`; the whole object's size and its tag."""
        reached = start
        condition = {"IfMatch": tag} if tag else {}

        def attempt(_: bool) -> tuple[int, str]:
            nonlocal reached
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=key, Range=f"bytes={reached}-{end - 1}", **condition
                )
            except self._client.exceptions.ClientError as error:
                code = code_of(error)
                if code == "NoSuchKey":
                    raise AbsentObject from error
                if code in CONDITION_NOT_MET:
                    raise _Changed from error
                if code in BEYOND_END and start == 0:
                    return 0, ""
                raise
            size_bytes = size_of(answer)
            if condition == {}:
                # From here on a try that goes on must go on in the same object.
                condition["IfMatch"] = answer["ETag"]
            with closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(_CHUNK_BYTES):
                    target.write(chunk, reached)
                    reached += len(chunk)
            return size_bytes, str(answer["ETag"])

        return self._calls("GetObject", self._place(key), attempt)

    @contextmanager
    def _working(self) -> Iterator[ThreadPoolExecutor]:
        """Threads for the parts of one file. When one fails, what has not begun does not begin."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="s3")
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _uses_crc(self) -> bool:
        return bool(self._client.meta.config.request_checksum_calculation == "when_supported")

    def _checksum(self, data: bytes | bytearray) -> dict[str, str]:
        """What makes the storage check the body: services that know no CRC32 get an MD5."""
        if self._uses_crc():
            return {"ChecksumAlgorithm": "CRC32"}
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def _place(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"


@dataclass(frozen=True)
class _Target:
    """A file that parts are written to, at their places."""

    descriptor: int
    path: Path

    def write(self, data: bytes, start: int) -> None:
        """Writes all of `data` at `start`."""
        left = memoryview(data)
        with disk_errors(self.path):
            while left:
                count = os.pwrite(self.descriptor, left, start)
                left, start = left[count:], start + count


def size_of(answer: dict[str, Any]) -> int:
    """The size of the whole object that a ranged read answered a part of, in bytes."""
    total = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdigit() else int(answer["ContentLength"])


def _fill(buffer: bytearray, file: FileIO, path: Path) -> None:
    """Reads the next bytes of the file until the buffer is full."""
    view, done = memoryview(buffer), 0
    with disk_errors(path):
        while done < len(buffer) and (count := file.readinto(view[done:])):
            done += count
    if done != len(buffer):
        raise StorageRefused(f"{path} became shorter while it was read", "leave it as it is")


def _raise_first(futures: list[Future[dict[str, Any]]]) -> None:
    for future in futures:
        if future.done() and not future.cancelled() and future.exception() is not None:
            future.result()

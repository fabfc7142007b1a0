"""The backend for S3 and for services that speak its protocol.

Credentials, and what the URI does not say, come from the usual variables (`AWS_ACCESS_KEY_ID`,
`AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_REGION` and so on), the files in `~/.aws`, or the
machine's role.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from storage.backend import Entry, MissingKey, Tagged
from storage.manifest import FileEntry
from storage.names import check_key, check_prefix, check_range, is_plain_path
from storage.s3_calls import Calls, Patience, make_client
from storage.s3_errors import BEYOND_END, CONDITION_NOT_MET, code_of
from storage.s3_transfer import AbsentObject, Transfers
from storage.uri import StorageUri

PART_BYTES: Final = 16 << 20
"""Larger files go in parts of this size."""

THREADS: Final = 16
"""Requests with a body that are under way at a time."""


class S3Backend:
    """Keys lie in `bucket` below `prefix`; a tag is the object's ETag."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        patience: Patience | None = None,
        *,
        threads: int = THREADS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        patience = patience or Patience()
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._calls = Calls(patience)
        self._transfers = Transfers(client, bucket, patience, threads, part_bytes)

    def write_bytes(self, key: str, data: bytes) -> None:
        """See `Backend`."""
        full = self._full(key)
        self._calls("PutObject", self._place(full), lambda _: self._transfers.put(full, data))

    def read_bytes(self, key: str) -> bytes:
        """See `Backend`."""
        return self.read_tagged(key).data

    def read_tagged(self, key: str) -> Tagged:
        """See `Backend`."""
        full = self._full(key)
        return self._calls("GetObject", self._place(full), lambda _: self._read(full))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Backend`."""
        check_range(start, length)
        full = self._full(key)
        # No range of nothing can be asked for, and yet the object must be there.
        wanted = f"bytes={start}-{start + max(length, 1) - 1}"

        def attempt(_: bool) -> bytes:
            try:
                return self._read(full, Range=wanted).data[:length]
            except self._client.exceptions.ClientError as error:
                if code_of(error) in BEYOND_END:
                    return b""
                raise

        return self._calls("GetObject", self._place(full), attempt)

    def exists(self, key: str) -> bool:
        """See `Backend`."""
        full = self._full(key)
        # Not HeadObject: its refusals have no body, and so do not say what is wrong. Of all keys
        # that begin like this one, it comes first.
        page = self._page(full, MaxKeys=1)
        return [entry["Key"] for entry in page.get("Contents", ())] == [full]

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Backend`."""
        for page in self._pages(prefix):
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(self._prefix)
                # Other programs make empty objects "a/" to show folders.
                if is_plain_path(key):
                    yield Entry(key, entry["Size"])

    def folders(self, prefix: str) -> tuple[str, ...]:
        """See `Backend`."""
        names = [
            each["Prefix"].removeprefix(self._prefix + prefix).removesuffix("/")
            for page in self._pages(prefix, Delimiter="/")
            for each in page.get("CommonPrefixes", ())
        ]
        return tuple(sorted(filter(is_plain_path, names)))

    def delete(self, key: str) -> None:
        """See `Backend`."""
        full = self._full(key)
        self._calls(
            "DeleteObject",
            self._place(full),
            lambda _: self._client.delete_object(Bucket=self._bucket, Key=full),
        )

    def delete_prefix(self, prefix: str) -> None:
        """See `Backend`."""
        if not prefix:
            raise ValueError("delete_prefix('') would delete the whole store")
        # A page holds as many keys as one request may delete.
        for page in self._pages(prefix):
            if keys := [entry["Key"] for entry in page.get("Contents", ())]:
                self._delete_all(keys)

    def create(self, key: str, data: bytes) -> bool:
        """See `Backend`."""
        full = self._full(key)

        def attempt(unsure: bool) -> bool:
            try:
                self._transfers.put(full, data, IfNoneMatch="*")
            except self._client.exceptions.ClientError as error:
                if code_of(error) not in CONDITION_NOT_MET:
                    raise
                return unsure and self._own_tag(full, data) is not None
            return True

        return self._calls("PutObject", self._place(full), attempt)

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """See `Backend`."""
        full = self._full(key)

        def attempt(unsure: bool) -> str | None:
            try:
                return self._transfers.put(full, data, IfMatch=tag)
            except self._client.exceptions.ClientError as error:
                if code_of(error) == "NoSuchKey":
                    return None
                if code_of(error) not in CONDITION_NOT_MET:
                    raise
                return self._own_tag(full, data) if unsure else None

        return self._calls("PutObject", self._place(full), attempt)

    def upload(self, path: Path, key: str) -> FileEntry:
        """See `Backend`."""
        sent = self._transfers.upload(path, self._full(key))
        return FileEntry(key, sent.size_bytes, sent.sha256)

    def download(self, key: str, path: Path) -> None:
        """See `Backend`."""
        full = self._full(key)
        try:
            self._transfers.download(full, path)
        except AbsentObject as error:
            raise self._missing(full) from error

    def abort_uploads(self, prefix: str, older_than_s: float) -> tuple[str, ...]:
        """See `Backend`."""
        full = self._prefix + check_prefix(prefix)
        now, ended = datetime.now(UTC), []
        for upload in self._unfinished(full):
            if (now - upload["Initiated"]).total_seconds() >= older_than_s:
                self._transfers.abort(upload["Key"], upload["UploadId"])
                ended.append(upload["Key"].removeprefix(self._prefix))
        return tuple(sorted(ended))

    def local_path(self, key: str) -> None:
        """See `Backend`: an object in S3 has no path."""
        check_key(key)

    def _read(self, full: str, **options: str) -> Tagged:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=full, **options)
        except self._client.exceptions.ClientError as error:
            if code_of(error) == "NoSuchKey":
                raise self._missing(full) from error
            raise
        with closing(answer["Body"]) as body:
            return Tagged(body.read(), answer["ETag"])

    def _own_tag(self, full: str, data: bytes) -> str | None:
        """The tag of the object if it is what this caller wrote, which its content tells."""
        try:
            current = self._read(full)
        except MissingKey:
            return None
        return current.tag if current.data == data else None

    def _page(self, full_prefix: str, **options: Any) -> dict[str, Any]:
        def attempt(_: bool) -> dict[str, Any]:
            page: dict[str, Any] = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=full_prefix, **options
            )
            return page

        return self._calls("ListObjectsV2", self._place(full_prefix), attempt)

    def _pages(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        full = self._prefix + check_prefix(prefix)
        while True:
            page = self._page(full, **options)
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _delete_all(self, keys: Sequence[str]) -> None:
        from botocore.exceptions import ClientError

        def attempt(_: bool) -> None:
            answer = self._client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
            )
            for error in answer.get("Errors", ()):
                raise ClientError({"Error": error}, "DeleteObjects")

        self._calls("DeleteObjects", self._place(keys[0]), attempt)

    def _unfinished(self, full_prefix: str) -> Iterator[dict[str, Any]]:
        options: dict[str, str] = {}

        def attempt(_: bool) -> dict[str, Any]:
            page: dict[str, Any] = self._client.list_multipart_uploads(
                Bucket=self._bucket, Prefix=full_prefix, **options
            )
            return page

        while True:
            page = self._calls("ListMultipartUploads", self._place(full_prefix), attempt)
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            options["KeyMarker"] = page["NextKeyMarker"]
            options["UploadIdMarker"] = page["NextUploadIdMarker"]

    def _missing(self, full: str) -> MissingKey:
        return MissingKey(
            f"there is no {full.removeprefix(self._prefix)!r} in {self._place(self._prefix)}",
            remedy="check the storage root and that the run got as far as writing it",
        )

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _place(self, full: str) -> str:
        return f"s3://{self._bucket}/{full}"


def open_s3(uri: StorageUri) -> S3Backend:
    """The store in the bucket of the URI. Asks nobody anything yet.

    Raises:
        UserError: boto3 is not installed, or its settings make no sense.
    """
    bucket, _, prefix = uri.path.partition("/")
    # More than transfers take, so that small requests need not wait for them.
    client = make_client(uri.endpoint, uri.region, uri.addressing, connections=THREADS * 2)
    return S3Backend(client, bucket, prefix)

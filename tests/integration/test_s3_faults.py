"""Storage in S3 when the network and the service fail: each fault once, and all of them at random.

The S3 is a process of its own on this machine, with a proxy of ours before it that fails.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from jobs.errors import StorageError, StorageRefused
from storage.backend import MissingKey
from storage.probe import NO_ABILITIES, Abilities, probe
from storage.s3 import S3Backend
from storage.s3_calls import Patience, make_client
from tests.chaos.fault_proxy import (
    BODILESS,
    ERROR_500,
    ERROR_IN_200,
    EXPIRED,
    LOST,
    RESET,
    RESET_IN_BODY,
    SKEWED,
    SLOW_DOWN,
    TRUNCATED,
    FaultProxy,
)
from tests.chaos.storage_drill import Drill
from tests.s3_server import CREDENTIALS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SEED = 20260823
PART_BYTES = 64 * 1024
QUICK = Patience(1, 1, first_pause_s=0.001, longest_pause_s=0.01)
BEGIN, COMPLETE, PART = r"^POST .*\?uploads", r"^POST .*uploadId=", r"^PUT .*partNumber=2"


class Proxied(NamedTuple):
    """A backend and the proxy that it goes by."""

    proxy: FaultProxy
    backend: S3Backend


class Place:
    """A bucket of a test's own."""

    def __init__(self, server: str) -> None:
        self.server, self.bucket = server, f"faults-{secrets.token_hex(6)}"
        self.client = make_client(server)
        self.client.create_bucket(Bucket=self.bucket)
        self.direct = S3Backend(self.client, self.bucket, "run", QUICK)

    @contextmanager
    def proxied(self, *faults: str, matching: str = "", most: int | None = 1) -> Iterator[Proxied]:
        """A backend whose requests go by a proxy, the first `most` of which meet a fault."""
        proxy = FaultProxy(self.server, 1.0, SEED, faults, (), matching, most)
        with proxy.running():
            client = make_client(proxy.address)
            backend = S3Backend(client, self.bucket, "run", QUICK, part_bytes=PART_BYTES)
            yield Proxied(proxy, backend)
        assert proxy.met.total() > proxy.met["passed"], "no fault was met"

    @contextmanager
    def through(
        self, *faults: str, matching: str = "", most: int | None = 1
    ) -> Iterator[S3Backend]:
        """The backend alone of `proxied`."""
        with self.proxied(*faults, matching=matching, most=most) as proxied:
            yield proxied.backend

    def unfinished(self) -> list[str]:
        """The keys of uploads that were begun and not ended."""
        answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [upload["Key"] for upload in answer.get("Uploads", ())]


@pytest.fixture
def place(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return Place(s3_server)


ANY = [RESET, RESET_IN_BODY, ERROR_500, SLOW_DOWN, TRUNCATED, BODILESS, LOST]


@pytest.mark.parametrize("fault", ANY)
def test_one_fault_is_not_noticed(place: Place, fault: str, tmp_path: Path) -> None:
    data = os.urandom(3 * PART_BYTES)
    (tmp_path / "up").write_bytes(data)
    calls: list[tuple[Callable[[S3Backend], object], object]] = [
        (lambda backend: backend.write_bytes("a", b"1"), None),
        (lambda backend: backend.read_bytes("a"), b"1"),
        (lambda backend: backend.exists("a"), True),
        (lambda backend: [each.key for each in backend.list("")], ["a"]),
        (lambda backend: backend.create("b", b"own"), True),
        (lambda backend: backend.upload(tmp_path / "up", "c").size_bytes, len(data)),
        (lambda backend: backend.download("c", tmp_path / "down"), None),
        (lambda backend: backend.delete_prefix("none/"), None),
    ]
    with place.proxied(fault) as (proxy, backend):
        for number, (call, expected) in enumerate(calls, 1):
            proxy.most = number
            assert call(backend) == expected
            assert proxy.met.total() - proxy.met["passed"] == number
    assert (tmp_path / "down").read_bytes() == data
    assert place.unfinished() == []


@pytest.mark.parametrize("fault", [LOST, TRUNCATED])
def test_one_is_told_of_its_own_write_though_the_answer_was_lost(place: Place, fault: str) -> None:
    with place.through(fault) as backend:
        assert backend.create("lease", b"one, 1")
    with place.through(fault) as backend:
        assert not backend.create("lease", b"another, 2")
    tag = place.direct.read_tagged("lease").tag
    with place.through(fault, matching="^PUT") as backend:
        new = backend.replace("lease", b"one, 3", tag)
    assert new is not None
    assert place.direct.read_tagged("lease").tag == new
    with place.through(fault, matching="^PUT") as backend:
        assert backend.replace("lease", b"late, 4", tag) is None


@pytest.mark.parametrize(
    ("fault", "matching"),
    [
        (LOST, BEGIN),
        (TRUNCATED, BEGIN),
        (LOST, PART),
        (LOST, COMPLETE),
        (TRUNCATED, COMPLETE),
        (ERROR_IN_200, COMPLETE),
    ],
)
def test_an_upload_in_parts_is_whole_and_leaves_nothing(
    place: Place, fault: str, matching: str, tmp_path: Path
) -> None:
    data = os.urandom(3 * PART_BYTES + 5)
    (tmp_path / "up").write_bytes(data)
    with place.through(fault, matching=matching) as backend:
        backend.upload(tmp_path / "up", "a")
    assert place.direct.read_bytes("a") == data
    assert place.unfinished() == []


def test_an_upload_that_fails_leaves_nothing(place: Place, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(os.urandom(3 * PART_BYTES))
    with (
        place.through(ERROR_500, matching=PART, most=None) as backend,
        pytest.raises(StorageError, match=r"UploadPart: the storage answers 500 .*tried \d+ times"),
    ):
        backend.upload(tmp_path / "up", "a")
    assert list(place.direct.list("")) == []
    assert place.unfinished() == []


@pytest.mark.parametrize(("done", "tries"), [(False, 2), (True, 1)])
def test_an_upload_that_is_gone_was_ended_by_another_or_is_complete(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool, tries: int
) -> None:
    data = os.urandom(3 * PART_BYTES)
    (tmp_path / "up").write_bytes(data)
    backend = S3Backend(place.client, place.bucket, "run", QUICK, part_bytes=PART_BYTES)
    asked: list[str] = []
    complete = place.client.complete_multipart_upload

    def gone(**request: Any) -> Any:
        asked.append(request["UploadId"])
        if len(asked) > 1:
            return complete(**request)
        if done:
            complete(**request)
        else:
            assert backend.abort_uploads("", 0) == ("a",)
        # S3's answer, where moto has one of its own.
        error = {"Error": {"Code": "NoSuchUpload"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
        raise ClientError(error, "CompleteMultipartUpload")

    monkeypatch.setattr(place.client, "complete_multipart_upload", gone)
    backend.upload(tmp_path / "up", "a")
    assert len(asked) == tries
    assert place.direct.read_bytes("a") == data
    assert place.unfinished() == []


def test_uploads_of_a_killed_writer_are_ended(place: Place) -> None:
    for key in ("run/a/x", "run/b/y", "other/z"):
        place.client.create_multipart_upload(Bucket=place.bucket, Key=key)
    # moto says of each that it was begun in 2010.
    assert place.direct.abort_uploads("", 100 * 365 * 86400) == ()
    with place.through(LOST, matching="^DELETE") as backend:
        assert backend.abort_uploads("a/", 0) == ("a/x",)
    assert sorted(place.unfinished()) == ["other/z", "run/b/y"]


def test_a_download_goes_on_where_it_broke_off(place: Place, tmp_path: Path) -> None:
    data = os.urandom(5 * PART_BYTES)
    place.direct.write_bytes("a", data)
    with place.through(TRUNCATED, most=8) as backend:
        backend.download("a", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data


def test_a_download_that_fails_leaves_nothing(place: Place, tmp_path: Path) -> None:
    place.direct.write_bytes("a", os.urandom(3 * PART_BYTES))
    with (
        place.through(TRUNCATED, most=None) as backend,
        pytest.raises(StorageError, match="GetObject"),
    ):
        backend.download("a", tmp_path / "down")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "said"), [(EXPIRED, "credentials have expired"), (SKEWED, "clock of this machine")]
)
def test_what_somebody_must_mend_is_refused_at_once(
    place: Place, fault: str, said: str, tmp_path: Path
) -> None:
    place.direct.write_bytes("a", b"committed")
    (tmp_path / "up").write_bytes(os.urandom(3 * PART_BYTES))
    with place.proxied(fault, most=None) as (proxy, backend):
        for call in (
            lambda: backend.write_bytes("a", b"new"),
            lambda: backend.upload(tmp_path / "up", "a"),
        ):
            before = proxy.met[fault]
            with pytest.raises(StorageRefused, match=said) as caught:
                call()
            # An upload also looks whether it has left one behind.
            assert proxy.met[fault] <= before + 2, "it is of no use to try again"
            assert caught.value.remedy
    assert place.direct.read_bytes("a") == b"committed"
    assert place.unfinished() == []


def test_what_a_storage_can_is_tried(place: Place) -> None:
    assert probe(place.direct) == Abilities(create_exclusive=True, compare_and_swap=True)
    careless = FaultProxy(place.server, 0, SEED, strip=(b"if-match", b"if-none-match"))
    with careless.running():
        backend = S3Backend(make_client(careless.address), place.bucket, "run", QUICK)
        assert probe(backend) == NO_ABILITIES
    assert list(place.direct.list("")) == []


def test_what_is_not_there_is_told_apart(place: Place) -> None:
    with pytest.raises(MissingKey, match=re.escape(f"no 'a' in s3://{place.bucket}/run/")):
        place.direct.read_bytes("a")
    nowhere = S3Backend(place.client, "no-such-bucket-here", "run", QUICK)
    for call in (
        lambda: nowhere.read_bytes("a"),
        lambda: nowhere.exists("a"),
        lambda: nowhere.write_bytes("a", b""),
        lambda: list(nowhere.list("")),
    ):
        with pytest.raises(StorageRefused, match="no such bucket"):
            call()


def test_a_service_without_crc32_gets_an_md5(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    client = make_client(place.server)
    sums: dict[str, str | None] = {}

    def note(request: Any, operation_name: str, **_: Any) -> None:
        sums[operation_name] = request.headers.get("Content-MD5")

    client.meta.events.register("before-sign.s3", note)
    backend = S3Backend(client, place.bucket, "run", QUICK, part_bytes=PART_BYTES)
    data = os.urandom(2 * PART_BYTES)
    (tmp_path / "up").write_bytes(data)
    backend.upload(tmp_path / "up", "a")
    backend.write_bytes("b/c", b"1")
    assert backend.read_bytes("a") == data
    backend.delete_prefix("b/")
    assert not backend.exists("b/c")
    assert all(sums[each] for each in ("UploadPart", "PutObject", "DeleteObjects"))


def test_a_service_that_nobody_reaches_is_given_up_soon(place: Place) -> None:
    quick = Patience(3600, 0.2, first_pause_s=0.01, longest_pause_s=0.05)
    closed = make_client("http://127.0.0.1:9")
    with pytest.raises(StorageError, match="cannot be reached"):
        S3Backend(closed, place.bucket, "run", quick).exists("a")


def test_nothing_is_lost_among_many_faults(place: Place) -> None:
    """The short form of `python -m tests.chaos.fault_proxy`."""
    proxy = FaultProxy(place.server, 0.2, SEED)
    with proxy.running():
        drill = Drill(place.server, proxy.address, SEED)
        wrong = drill.run(200)
    print(f"seed {SEED}: {proxy.met}, {drill.done}")
    assert wrong == []
    assert drill.done.total() == 200
    assert proxy.met.total() - proxy.met["passed"] > 40


def test_the_drill_fails_without_retries(place: Place) -> None:
    proxy = FaultProxy(place.server, 0.2, SEED)
    with proxy.running():
        wrong = Drill(place.server, proxy.address, SEED, retries=False).run(100)
    assert wrong
    assert all("tried once" in line for line in wrong)

"""What every storage backend does alike. A backend without a line in ROOTS fails here."""

import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Barrier

import pytest

from jobs.errors import StorageRefused
from storage import BACKENDS
from storage.backend import Backend, Entry, MissingKey, open_backend
from storage.manifest import FileEntry
from storage.s3 import PART_BYTES
from storage.s3_calls import make_client
from storage.transfer import download_folder, upload_folder
from storage.uri import parse_uri
from tests.s3_server import CREDENTIALS

Fixtures = pytest.FixtureRequest


def s3_root(request: Fixtures) -> str:
    """A bucket of the test's own on a server that all of them share."""
    patch, server = request.getfixturevalue("monkeypatch"), request.getfixturevalue("s3_server")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in CREDENTIALS.items():
        patch.setenv(name, value)
    bucket = f"contract-{secrets.token_hex(6)}"
    make_client(server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prefix?endpoint={server}"


ROOTS: dict[str, Callable[[Fixtures], str]] = {
    "file": lambda request: str(request.getfixturevalue("tmp_path") / "root"),
    "memory": lambda request: "memory://contract",
    "s3": s3_root,
}


def _param(name: str) -> object:
    """An S3 listens on a socket, which tests of the unit tier don't."""
    return pytest.param(name, marks=pytest.mark.integration if name == "s3" else ())


@pytest.fixture(params=map(_param, sorted(BACKENDS)))
def backend(request: Fixtures) -> Backend:
    return open_backend(parse_uri(ROOTS[request.param](request)))


def test_reads_what_was_written_last(backend: Backend) -> None:
    backend.write_bytes("a/b.json", b"one")
    backend.write_bytes("a/b.json", b"two")
    assert backend.read_bytes("a/b.json") == b"two"
    assert backend.exists("a/b.json")


def test_a_prefix_is_no_object(backend: Backend) -> None:
    backend.write_bytes("a/b", b"1")
    assert not backend.exists("a")
    with pytest.raises(MissingKey):
        backend.read_bytes("a")


def test_a_missing_key_is_named(backend: Backend) -> None:
    assert not backend.exists("a/b")
    with pytest.raises(MissingKey, match="a/b"):
        backend.read_bytes("a/b")


def test_lists_by_key_with_sizes(backend: Backend) -> None:
    for key in ("b", "a/c/d", "a.b", "a/b", "ab/x"):
        backend.write_bytes(key, key.encode())
    assert list(backend.list("a/")) == [Entry("a/b", 3), Entry("a/c/d", 5)]
    assert [entry.key for entry in backend.list("")] == ["a.b", "a/b", "a/c/d", "ab/x", "b"]
    assert list(backend.list("none/")) == []


def test_delete_may_be_repeated(backend: Backend) -> None:
    backend.write_bytes("a/b", b"1")
    backend.write_bytes("a/c", b"1")
    for key in ("a/b", "a/b", "a"):
        backend.delete(key)
    assert [entry.key for entry in backend.list("")] == ["a/c"]


def test_delete_prefix_spares_longer_names(backend: Backend) -> None:
    for key in ("run/a/1", "run/a/2/3", "run/ab/1"):
        backend.write_bytes(key, b"1")
    backend.delete_prefix("run/a/")
    backend.delete_prefix("run/a/")
    assert [entry.key for entry in backend.list("")] == ["run/ab/1"]


def test_the_whole_store_is_never_deleted(backend: Backend) -> None:
    with pytest.raises(ValueError, match="whole store"):
        backend.delete_prefix("")


def test_create_keeps_the_first(backend: Backend) -> None:
    assert backend.create("locks/run", b"first")
    assert not backend.create("locks/run", b"second")
    assert backend.read_bytes("locks/run") == b"first"
    backend.delete("locks/run")
    assert backend.create("locks/run", b"third")


def test_create_has_one_winner(backend: Backend) -> None:
    callers = 8
    barrier = Barrier(callers)

    def contend(number: int) -> bool:
        barrier.wait(timeout=10)
        return backend.create("lock", str(number).encode())

    with ThreadPoolExecutor(callers) as pool:
        won = list(pool.map(contend, range(callers)))
    assert won.count(True) == 1
    assert backend.read_bytes("lock") == str(won.index(True)).encode()


def test_a_range_ends_with_the_object(backend: Backend) -> None:
    backend.write_bytes("a", b"0123456789")
    backend.write_bytes("empty", b"")
    assert backend.read_range("a", 0, 10) == b"0123456789"
    assert backend.read_range("a", 2, 3) == b"234"
    assert backend.read_range("a", 8, 5) == b"89"
    assert backend.read_range("a", 10, 5) == b""
    assert backend.read_range("a", 3, 0) == b""
    assert backend.read_range("empty", 0, 1) == b""
    for start, length in ((0, 1), (5, 0)):
        with pytest.raises(MissingKey, match="none"):
            backend.read_range("none", start, length)
    with pytest.raises(ValueError, match="no range"):
        backend.read_range("a", -1, 2)


def test_folders_are_the_names_directly_below(backend: Backend) -> None:
    for key in ("b", "a/c/d", "a/e/1", "a/e/2", "a/f", "ab/x"):
        backend.write_bytes(key, b"1")
    assert backend.folders("") == ("a", "ab")
    assert backend.folders("a/") == ("c", "e")
    assert backend.folders("none/") == ()


def test_only_the_object_that_was_read_is_replaced(backend: Backend) -> None:
    assert backend.create("lease", b"one")
    first = backend.read_tagged("lease")
    assert first.data == b"one"
    second = backend.replace("lease", b"two", first.tag)
    assert second is not None
    assert backend.replace("lease", b"late", first.tag) is None
    assert backend.read_tagged("lease") == type(first)(b"two", second)
    third = backend.replace("lease", b"three", second)
    assert third == backend.read_tagged("lease").tag
    backend.delete("lease")
    assert third is not None
    assert backend.replace("lease", b"four", third) is None
    assert not backend.exists("lease")
    with pytest.raises(MissingKey):
        backend.read_tagged("lease")


def test_a_counter_counts_every_caller(backend: Backend) -> None:
    callers, rounds = 4, 5
    backend.write_bytes("counter", b"0")

    def count(_: int) -> None:
        for _ in range(rounds):
            while True:
                seen = backend.read_tagged("counter")
                if backend.replace("counter", b"%d" % (int(seen.data) + 1), seen.tag) is not None:
                    break

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(count, range(callers)))
    assert backend.read_bytes("counter") == b"%d" % (callers * rounds)


@pytest.mark.parametrize("size_bytes", [0, 5, 2 * PART_BYTES + 7])
def test_files_go_there_and_back(backend: Backend, tmp_path: Path, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    assert backend.upload(source, "a/b") == FileEntry("a/b", size_bytes, sha256(data).hexdigest())
    assert backend.read_bytes("a/b") == data
    target.write_bytes(b"older")
    backend.download("a/b", target)
    assert target.read_bytes() == data
    assert sorted(tmp_path.glob("*")) in ([source, target], [tmp_path / "root", source, target])
    assert backend.abort_uploads("", 0) == ()


def test_what_is_not_there_is_not_transferred(backend: Backend, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(MissingKey, match="none"):
        backend.download("none", target)
    with pytest.raises(StorageRefused, match="no such file"):
        backend.upload(tmp_path / "none", "a")
    assert not target.exists()
    assert list(backend.list("")) == []


def test_folders_go_there_and_back(backend: Backend, tmp_path: Path) -> None:
    names = [f"part-{number}/x" for number in range(20)] + ["large"]
    for name in names:
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(PART_BYTES + 1 if name == "large" else 100))
    entries = upload_folder(backend, "run/", tmp_path / "there", names)
    assert [entry.name for entry in entries] == sorted(names)
    assert {entry.key for entry in backend.list("run/")} == {f"run/{name}" for name in names}
    download_folder(backend, "run/", tmp_path / "back", entries)
    for entry in entries:
        data = (tmp_path / "back" / entry.name).read_bytes()
        assert (len(data), sha256(data).hexdigest()) == (entry.size_bytes, entry.sha256)


def test_deletes_more_than_one_request_can(backend: Backend) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: backend.write_bytes(f"run/{n:04}", b""), range(1010)))
    assert len(list(backend.list("run/"))) == 1010
    backend.delete_prefix("run/")
    assert list(backend.list("")) == []


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a/", "a\\b", "a\0", ".tmp-a"]
)
def test_refuses_keys_that_are_no_plain_paths(backend: Backend, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: backend.write_bytes(key, b""),
        lambda: backend.create(key, b""),
        lambda: backend.read_bytes(key),
        lambda: backend.read_range(key, 0, 1),
        lambda: backend.read_tagged(key),
        lambda: backend.replace(key, b"", "tag"),
        lambda: backend.upload(Path(__file__), key),
        lambda: backend.download(key, Path("/nowhere/file")),
        lambda: backend.exists(key),
        lambda: backend.delete(key),
        lambda: backend.local_path(key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not a storage key"):
            call()


@pytest.mark.parametrize("prefix", ["a", "../", "/", "a//"])
def test_refuses_prefixes_that_are_no_folders(backend: Backend, prefix: str) -> None:
    with pytest.raises(ValueError, match="not a storage"):
        list(backend.list(prefix))
    with pytest.raises(ValueError, match="not a storage"):
        backend.delete_prefix(prefix)
    with pytest.raises(ValueError, match="not a storage"):
        backend.folders(prefix)
    with pytest.raises(ValueError, match="not a storage"):
        backend.abort_uploads(prefix, 0)


def test_a_local_path_holds_the_object(backend: Backend) -> None:
    backend.write_bytes("a/b", b"1")
    path = backend.local_path("a/b")
    assert path is None or path.read_bytes() == b"1"

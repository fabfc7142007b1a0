"""What every storage backend does alike. A backend without a line in ROOTS fails here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from storage import BACKENDS
from storage.backend import Backend, Entry, MissingKey, open_backend
from storage.uri import parse_uri

ROOTS: dict[str, Callable[[Path], str]] = {
    "file": lambda tmp_path: str(tmp_path / "root"),
    "memory": lambda tmp_path: "memory://contract",
}


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return open_backend(parse_uri(ROOTS[request.param](tmp_path)))


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


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a/", "a\\b", "a\0", ".tmp-a"]
)
def test_refuses_keys_that_are_no_plain_paths(backend: Backend, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: backend.write_bytes(key, b""),
        lambda: backend.create(key, b""),
        lambda: backend.read_bytes(key),
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


def test_a_local_path_holds_the_object(backend: Backend) -> None:
    backend.write_bytes("a/b", b"1")
    path = backend.local_path("a/b")
    assert path is None or path.read_bytes() == b"1"

"""What only a disk has: links and unfinished files."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import StorageError, StorageRefused, UserError
from storage.local import LocalBackend


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "leaf").symlink_to(tmp_path / "secret")
    return root


@pytest.mark.parametrize("key", ["out/secret", "leaf"])
def test_no_link_leads_out_of_the_root(root: Path, key: str) -> None:
    backend = LocalBackend(root)
    with pytest.raises(UserError, match="leads outside"):
        backend.read_bytes(key)
    with pytest.raises(UserError, match="leads outside"):
        backend.write_bytes(key, b"changed")
    with pytest.raises(UserError, match="leads outside"):
        backend.delete(key)
    with pytest.raises(UserError, match="leads outside"):
        backend.delete_prefix("out/")
    assert (root.parent / "secret").read_bytes() == b"secret"


def test_delete_prefix_does_not_follow_links_inside(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "out").symlink_to(root.parent)
    LocalBackend(root).delete_prefix("a/")
    assert not (root / "a").exists()
    assert (root.parent / "secret").exists()


def test_links_and_unfinished_files_are_not_listed(root: Path) -> None:
    backend = LocalBackend(root)
    (root / ".tmp-a-123").write_bytes(b"half")
    backend.write_bytes("a", b"whole")
    assert [entry.key for entry in backend.list("")] == ["a"]


def test_opening_creates_nothing(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "new")
    assert list(backend.list("")) == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, StorageRefused, "disk is full"),
        (errno.EDQUOT, StorageRefused, "quota"),
        (errno.EROFS, StorageRefused, "read-only"),
        (errno.EACCES, StorageRefused, "permission denied"),
        (errno.EIO, StorageError, "disk fails"),
        (errno.ESTALE, StorageError, "disk fails"),
    ],
)
def test_a_disk_that_refuses_is_told_clearly_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], said: str
) -> None:
    backend = LocalBackend(tmp_path / "root")
    backend.write_bytes("a", b"old")
    tag = backend.read_tagged("a").tag
    (tmp_path / "file").write_bytes(b"new")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    calls: list[Callable[[], object]] = [
        lambda: backend.write_bytes("a", b"new"),
        lambda: backend.replace("a", b"new", tag),
        lambda: backend.create("b", b"new"),
        lambda: backend.upload(tmp_path / "file", "a"),
    ]
    for call in calls:
        with pytest.raises(kind, match=said) as caught:
            call()
        assert str(tmp_path / "root") in str(caught.value)
        assert "fix:" in str(caught.value)
    monkeypatch.undo()
    assert backend.read_bytes("a") == b"old"
    assert [entry.key for entry in backend.list("")] == ["a"]
    assert backend.abort_uploads("", 0) == ()


def test_unfinished_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    assert backend.create("a/lease", b"1")
    assert backend.replace("a/lease", b"2", backend.read_tagged("a/lease").tag)
    old, new = tmp_path / "a" / ".tmp-x-1", tmp_path / "a" / ".tmp-y-2"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert backend.abort_uploads("", 50) == ("a/.tmp-x-1",)
    assert new.exists()
    assert backend.abort_uploads("a/", 0) == ("a/.tmp-y-2",)
    # The lock by which `replace` takes turns stays: another may hold it.
    assert (tmp_path / ".tmp-lock").exists()
    assert backend.read_bytes("a/lease") == b"2"

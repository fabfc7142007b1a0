"""What only a disk has: links and unfinished files."""

from pathlib import Path

import pytest

from jobs.errors import UserError
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

"""Writes that fail leave what was there."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from jobs.errors import RaysmithError
from storage.durable import create_exclusive, fsync_folder, write_atomic


def _disk_full(descriptor: int) -> NoReturn:
    raise OSError(errno.ENOSPC, "no space left")


def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", _disk_full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_in_the_middle_reads_the_old_content_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomic(path, b"old content")
    with path.open("rb", buffering=0) as reader:
        head = reader.read(3)
        write_atomic(path, b"new")
        assert head + reader.read() == b"old content"
    assert path.read_bytes() == b"new"


def test_without_hard_links_the_error_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> NoReturn:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(RaysmithError, match="no hard links"):
        create_exclusive(tmp_path / "lock", b"1")
    assert list(tmp_path.iterdir()) == []


def test_only_a_missing_folder_fsync_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int) -> NoReturn:
        raise OSError(errno.EINVAL, "invalid")

    monkeypatch.setattr(os, "fsync", unsupported)
    fsync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", _disk_full)
    with pytest.raises(OSError, match="no space"):
        fsync_folder(tmp_path)

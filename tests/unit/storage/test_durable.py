"""Writes that fail leave what was there."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NoReturn

import pytest

from jobs.errors import RaysmithError
from storage.durable import create_exclusive, fsync_folder, link_or_copy, locked, write_atomic


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


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path, seen = tmp_path / "locks" / "data", list[str]()

    def other() -> None:
        with locked(path):
            seen.append("other")

    thread = Thread(target=other)
    with suppress(ValueError), locked(path):
        thread.start()
        thread.join(0.05)
        seen.append("first")
        raise ValueError
    thread.join()
    assert seen == ["first", "other"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_is_put_elsewhere_with_or_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(path: Path, target: Path) -> NoReturn:
        raise PermissionError(errno.EPERM, "not permitted")

    source, target = tmp_path / "weights", tmp_path / "a" / "b" / "weights"
    source.write_bytes(b"1")
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_or_copy(source, target)
    assert target.read_bytes() == b"1"
    assert target.samefile(source) == has_links
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "nothing", tmp_path / "c")

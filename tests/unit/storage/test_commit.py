"""The commit protocol under torn, damaged, foreign, linked and contested folders."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import storage.commit
from jobs.errors import RaysmithError
from storage.claim import ForeignFolder, StaleAttempt
from storage.commit import begin, commit, discard
from storage.committed import inspect, newest_committed, read_committed, read_owner
from storage.durable import fsync_file
from storage.manifest import Owner, owner_to_json

FIRST = Owner("r1", "sft", "key", 1)
SECOND = Owner("r1", "sft", "key", 2)


def make(folder: Path, owner: Owner = FIRST, step: int = 0) -> Path:
    begin(folder, owner)
    (folder / "nested").mkdir()
    (folder / "nested" / "model.bin").write_bytes(b"weights")
    (folder / "state.json").write_bytes(b"{}")
    commit(folder, owner, {"step": step})
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_committed_folder_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "stages" / "checkpoint-5"
    begin(folder, FIRST)
    (folder / "nested").mkdir()
    (folder / "nested" / "model.bin").write_bytes(b"weights" * 500_000)
    written = commit(folder, FIRST, {"step": 5, "shape": (1, 2)})
    assert read_committed(folder, verify="digests") == written
    assert [(file.name, file.size_bytes) for file in written.files] == [
        ("nested/model.bin", 3_500_000)
    ]
    assert written.meta == {"step": 5, "shape": [1, 2]}
    assert written.owner == FIRST


def test_without_a_marker_nothing_is_committed(tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    begin(folder, FIRST)
    (folder / "model.bin").write_bytes(b"half")
    assert read_committed(folder) is None
    assert "never finished" in inspect(folder).reason
    assert read_committed(tmp_path / "none") is None


def test_everything_is_flushed_before_the_marker_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "c"
    begin(folder, FIRST)
    (folder / "nested").mkdir()
    (folder / "nested" / "model.bin").write_bytes(b"weights")
    flushed: set[str] = set()

    def record(path: Path) -> None:
        if not (folder / "_COMMITTED.json").exists():
            flushed.add(path.name)

    monkeypatch.setattr(storage.commit, "fsync_file", record)
    monkeypatch.setattr(storage.commit, "fsync_folder", record)
    commit(folder, FIRST, {})
    assert flushed == {"model.bin", "nested", "c"}


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "files": [', b"[]", b'{"format": 1}'])
def test_a_damaged_marker_is_no_commit(tmp_path: Path, content: bytes) -> None:
    folder = make(tmp_path / "c")
    (folder / "_COMMITTED.json").write_bytes(content)
    verdict = inspect(folder)
    assert not verdict.committed
    assert "_COMMITTED.json is damaged" in verdict.reason


def test_a_short_or_missing_file_is_found_by_size(tmp_path: Path) -> None:
    folder = make(tmp_path / "c")
    (folder / "nested" / "model.bin").write_bytes(b"weight")
    assert "model.bin has 6 bytes, 7 were committed" in inspect(folder).reason
    (folder / "nested" / "model.bin").unlink()
    assert "model.bin is missing" in inspect(folder).reason
    (folder / "nested" / "model.bin").symlink_to("/etc/passwd")
    assert "not a plain file" in inspect(folder).reason


def test_a_flipped_byte_is_found_by_digest(tmp_path: Path) -> None:
    folder = make(tmp_path / "c")
    (folder / "nested" / "model.bin").write_bytes(b"Weights")
    assert read_committed(folder, verify="sizes") is not None
    assert read_committed(folder, verify="digests") is None
    assert "sha256" in inspect(folder, "digests").reason


def test_a_later_attempt_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    begin(folder, FIRST)
    (folder / "model.bin").write_bytes(b"half")
    (folder / "sub").mkdir()
    begin(folder, SECOND)
    assert names(folder) == {"_OWNER.json"}
    assert read_owner(folder) == SECOND


def test_the_same_attempt_may_write_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "c")
    begin(folder, FIRST)
    assert read_committed(folder) is None
    assert names(folder) == {"_OWNER.json"}


@pytest.mark.parametrize("left", ["", ".tmp-_OWNER.json-0a1b"])
def test_a_begin_that_was_killed_can_be_repeated(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    if left:
        (folder / left).write_bytes(b"{")
    begin(folder, FIRST)
    assert names(folder) == {"_OWNER.json"}


def test_an_older_attempt_is_fenced_out(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    begin(folder, FIRST)
    begin(folder, SECOND)
    (folder / "model.bin").write_bytes(b"of the first")
    with pytest.raises(StaleAttempt, match="attempt 2"):
        commit(folder, FIRST, {})
    with pytest.raises(StaleAttempt, match="attempt 2"):
        begin(folder, FIRST)
    assert names(folder) == {"_OWNER.json", "model.bin"}


def test_an_attempt_is_fenced_out_while_it_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "c"
    begin(folder, FIRST)
    (folder / "model.bin").write_bytes(b"weights")

    def overtaken(path: Path) -> None:
        (folder / "_OWNER.json").write_bytes(owner_to_json(SECOND))
        fsync_file(path)

    monkeypatch.setattr(storage.commit, "fsync_file", overtaken)
    with pytest.raises(StaleAttempt):
        commit(folder, FIRST, {})
    assert read_committed(folder) is None


@pytest.mark.parametrize(
    "owner_file",
    [None, b"{torn", owner_to_json(Owner("r2", "sft", "key", 1)),
     owner_to_json(Owner("r1", "dpo", "key", 1))],
)  # fmt: skip
def test_a_foreign_folder_is_refused_and_untouched(
    tmp_path: Path, owner_file: bytes | None
) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    if owner_file is not None:
        (folder / "_OWNER.json").write_bytes(owner_file)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ForeignFolder, match="nothing in it was touched"):
        begin(folder, FIRST)
    with pytest.raises(ForeignFolder):
        commit(folder, FIRST, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_link_or_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    target = make(tmp_path / "target")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "dangling", "file"):
        with pytest.raises(ForeignFolder):
            begin(tmp_path / name, SECOND)
    assert read_committed(target) is not None
    assert not (tmp_path / "nowhere").exists()


def test_clearing_never_follows_links(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside")
    folder = tmp_path / "c"
    begin(folder, FIRST)
    (folder / "deep").mkdir()
    (folder / "deep" / "link").symlink_to(outside)
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "state.json")
    begin(folder, SECOND)
    assert names(folder) == {"_OWNER.json"}
    assert read_committed(outside, verify="digests") is not None


@pytest.mark.parametrize("target", [".", "/etc/passwd"])
def test_a_link_is_not_committed(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "c"
    begin(folder, FIRST)
    (folder / "link").symlink_to(target)
    with pytest.raises(RaysmithError, match="complete in itself"):
        commit(folder, FIRST, {})
    assert read_committed(folder) is None


def test_a_subfolder_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "c")
    (folder / "_COMMITTED.json").unlink()
    real_scandir = os.scandir

    def refuse_nested(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("nested"):
            raise PermissionError(path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_nested)
    with pytest.raises(PermissionError, match="nested"):
        commit(folder, FIRST, {})
    assert read_committed(folder) is None


def test_what_json_cannot_hold_is_not_committed(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    begin(folder, FIRST)
    with pytest.raises(ValueError, match="JSON"):
        commit(folder, FIRST, {"loss": float("nan")})
    assert read_committed(folder) is None


def test_the_newest_whole_folder_is_found_and_the_others_explained(tmp_path: Path) -> None:
    folders = [make(tmp_path / f"checkpoint-{step}", step=step) for step in (1, 2, 3, 4)]
    (folders[2] / "state.json").write_bytes(b"longer")
    (folders[3] / "_COMMITTED.json").unlink()
    newest = newest_committed(iter(folders))
    assert newest is not None
    manifest, folder, skipped = newest
    assert (manifest.meta["step"], folder) == (2, folders[1])
    assert ["checkpoint-4" in skipped[0], "checkpoint-3" in skipped[1]] == [True, True]
    assert newest_committed(folders[2:]) is None


def test_a_disk_that_refuses_is_told_from_a_missing_marker(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    begin(folder, FIRST)
    (folder / "_COMMITTED.json").mkdir()
    verdict = inspect(folder)
    assert (verdict.committed, verdict.readable) == (False, False)


def test_a_discard_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "c")

    def killed(path: Path) -> None:
        raise OSError(str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(OSError, match="nested"):
            discard(folder)
    assert read_committed(folder) is None
    assert read_owner(folder) == FIRST
    discard(folder)
    assert not folder.exists()

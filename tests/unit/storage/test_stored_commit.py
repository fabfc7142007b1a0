"""The commit protocol below a working copy: the store decides, and any machine can go on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import storage.working_copy
from storage.backend import Backend
from storage.claim import StaleAttempt
from storage.commit import add, adopt, begin, commit, discard
from storage.committed import fetch, inspect, newest_committed, read_committed, read_owner
from storage.layout import Layout
from storage.manifest import MARKER_FILE, OWNER_FILE, Owner
from storage.memory import MemoryBackend
from storage.retention import prune
from storage.uri import StorageUri
from storage.working_copy import copy_of, place_of

FIRST, SECOND = Owner("r1", "sft", "key", 1), Owner("r1", "sft", "key", 2)
Machine = Callable[[str], Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The root of the working copy on a machine of this name; all share one store."""

    def root(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return copy_of(StorageUri("memory", "shared"))

    storage.working_copy.opened.cache_clear()
    yield root
    storage.working_copy.opened.cache_clear()


def store(root: Path) -> Backend:
    place = place_of(root)
    assert place
    return place.store


def keys(root: Path) -> set[str]:
    return {entry.key for entry in store(root).list("")}


def checkpoint(root: Path, step: int, owner: Owner = FIRST) -> Path:
    folder = Layout(root).run("job", "r1").stage("sft").checkpoint(step)
    begin(folder, owner)
    (folder / "nested").mkdir()
    (folder / "nested" / "model.bin").write_bytes(bytes([step]) * 1000)
    (folder / "state.json").write_bytes(b"{}")
    return folder


def here(folder: Path, machine: Machine, name: str) -> Path:
    """The same folder on another machine."""
    before = next(parent for parent in folder.parents if parent.name.startswith("memory%3A"))
    return machine(name) / folder.relative_to(before)


def test_what_one_machine_commits_another_one_has(machine: Machine) -> None:
    folder = checkpoint(machine("a"), 5)
    written = commit(folder, FIRST, {"step": 5})
    assert keys(machine("a")) == {
        f"job/r1/stages/sft/checkpoint-5/{name}"
        for name in (MARKER_FILE, OWNER_FILE, "nested/model.bin", "state.json")
    }
    there = here(folder, machine, "b")
    assert read_committed(there) == written
    assert not there.exists()
    assert fetch(there) == written
    assert (there / "nested" / "model.bin").read_bytes() == bytes([5]) * 1000
    assert inspect(there, "digests").committed


def test_without_a_marker_nothing_is_committed(machine: Machine) -> None:
    folder = checkpoint(machine("a"), 5)
    add(folder, ["nested/model.bin", "state.json"], FIRST)
    assert keys(machine("a")) >= {"job/r1/stages/sft/checkpoint-5/state.json"}
    there = here(folder, machine, "b")
    assert fetch(there) is None
    assert "never finished" in inspect(there).reason


def test_files_that_others_added_are_part_of_the_commit(machine: Machine) -> None:
    folder = checkpoint(machine("a"), 5)
    theirs = here(folder, machine, "b")
    theirs.mkdir(parents=True)
    (theirs / "optimizer-1").write_bytes(b"moments")
    added = add(theirs, ["optimizer-1"], FIRST)
    machine("a")
    written = commit(folder, FIRST, {}, added)
    assert [file.name for file in written.files] == [
        "nested/model.bin", "optimizer-1", "state.json",
    ]  # fmt: skip
    assert fetch(folder) == written
    assert (folder / "optimizer-1").read_bytes() == b"moments"


def test_a_later_attempt_fences_the_earlier_one_out(machine: Machine) -> None:
    folder = checkpoint(machine("a"), 5)
    again = checkpoint(machine("b"), 5, SECOND)
    machine("a")
    with pytest.raises(StaleAttempt):
        commit(folder, FIRST, {})
    with pytest.raises(StaleAttempt):
        begin(folder, FIRST)
    machine("b")
    assert commit(again, SECOND, {}).owner == read_owner(again) == SECOND


def test_what_is_here_already_is_not_brought_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(machine("a"), 5)
    written = commit(folder, FIRST, {})
    # As if it was killed between the two markers.
    (folder / MARKER_FILE).unlink()
    (folder / "state.json").write_bytes(b"[]")
    brought = []
    download = MemoryBackend.download

    def counted(self: MemoryBackend, key: str, path: Path) -> None:
        brought.append(path.name)
        download(self, key, path)

    monkeypatch.setattr(MemoryBackend, "download", counted)
    assert fetch(folder) == written
    assert fetch(folder) == written
    assert brought == ["state.json"]
    assert (folder / "state.json").read_bytes() == b"{}"


def test_a_flipped_byte_in_the_store_is_found_and_the_one_before_used(machine: Machine) -> None:
    folders = [checkpoint(machine("a"), step) for step in (5, 10)]
    for folder in folders:
        commit(folder, FIRST, {})
    key = "job/r1/stages/sft/checkpoint-10/nested/model.bin"
    data = bytearray(store(folders[0]).read_bytes(key))
    data[500] ^= 1
    store(folders[0]).write_bytes(key, bytes(data))
    stage = Layout(machine("b")).run("job", "r1").stage("sft")
    found = newest_committed(stage.checkpoints(), verify="digests")
    assert found
    assert found.folder == stage.checkpoint(5)
    assert found.skipped == [
        "memory://shared/job/r1/stages/sft/checkpoint-10 is damaged: the content of "
        "nested/model.bin is not what was committed (sha256 differs)"
    ]
    assert (found.folder / "nested" / "model.bin").read_bytes() == bytes([5]) * 1000


def test_a_missing_or_short_object_is_found_without_reading_any(machine: Machine) -> None:
    folder = checkpoint(machine("a"), 5)
    commit(folder, FIRST, {})
    key = "job/r1/stages/sft/checkpoint-5/state.json"
    store(folder).write_bytes(key, b"")
    assert "state.json has 0 bytes, 2 were committed" in inspect(folder).reason
    store(folder).delete(key)
    assert "state.json is missing" in inspect(folder).reason


def test_old_checkpoints_are_deleted_also_those_of_another_machine(machine: Machine) -> None:
    for step in (5, 10):
        commit(checkpoint(machine("a"), step), FIRST, {})
    commit(checkpoint(machine("b"), 15, SECOND), SECOND, {})
    stage = Layout(machine("b")).run("job", "r1").stage("sft")
    assert prune(stage, keep=2) == [stage.checkpoint(5)]
    assert stage.checkpoints() == [stage.checkpoint(10), stage.checkpoint(15)]
    assert not [key for key in keys(machine("b")) if "checkpoint-5/" in key]


def test_a_discarded_folder_is_gone_everywhere(machine: Machine) -> None:
    folder = checkpoint(machine("a"), 5)
    commit(folder, FIRST, {})
    discard(folder)
    assert not folder.exists()
    assert not keys(machine("a"))
    discard(folder)


def test_an_artifact_is_made_of_a_checkpoint(machine: Machine) -> None:
    folder = checkpoint(machine("a"), 5)
    manifest = commit(folder, FIRST, {})
    artifact = Layout(machine("a")).run("job", "r1").artifact("sft")
    adopt(folder, manifest, artifact, FIRST, {"type": "adapter"}, ("state",))
    there = here(artifact, machine, "b")
    assert fetch(there)
    assert (there / "nested" / "model.bin").read_bytes() == bytes([5]) * 1000
    assert not (there / "state.json").exists()

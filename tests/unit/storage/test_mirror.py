"""What a run writes as it goes reaches the store, and whoever reads it elsewhere."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import storage.working_copy
from storage.commit import begin
from storage.fenced import FencedFile, FencedOut
from storage.manifest import Owner
from storage.mirror import Mirror, pull, pull_file, push_file
from storage.uri import StorageUri
from storage.working_copy import copy_of, place_of

Machine = Callable[[str], Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The folder of a run on a machine of this name; all share one store."""

    def root(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        folder = copy_of(StorageUri("memory", "shared")) / "job" / "run"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    storage.working_copy.opened.cache_clear()
    yield root
    storage.working_copy.opened.cache_clear()


def stored(folder: Path) -> dict[str, bytes]:
    place = place_of(folder)
    assert place
    found = place.store.list(place.prefix)
    return {e.key.removeprefix(place.prefix): place.store.read_bytes(e.key) for e in found}


def test_all_is_stored_at_the_end_but_what_is_stored_otherwise(machine: Machine) -> None:
    run = machine("a")
    with Mirror(run, elsewhere=frozenset({"status.json"})):
        begin(run / "checkpoint-1", Owner("r", "s", "k", 1))
        for name in (
            "events.jsonl", "status.json", "attempt_1/worker_0.log", "checkpoint-1/model.bin",
            "scratch/part", ".tmp-x", "stop_request",
        ):  # fmt: skip
            path = run / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    found = stored(run)
    found.pop("checkpoint-1/_OWNER.json")
    assert found == {
        "events.jsonl": b"events.jsonl", "attempt_1/worker_0.log": b"attempt_1/worker_0.log",
    }  # fmt: skip


def test_what_changes_is_stored_again_and_what_is_removed_is_removed(machine: Machine) -> None:
    run = machine("a")
    (run / "gone.json").write_text("{}")
    (run / "events.jsonl").write_text("1\n")
    mirror = Mirror(run)
    place = place_of(run)
    assert place
    mirror.store(place, last=False)
    (run / "gone.json").unlink()
    (run / "events.jsonl").write_text("1\n2\n")
    mirror.store(place, last=True)
    assert stored(run) == {"events.jsonl": b"1\n2\n"}


def test_who_may_not_write_any_more_stores_nothing(machine: Machine) -> None:
    run = machine("a")
    with Mirror(run, may_write=lambda: False):
        (run / "events.jsonl").write_text("stale\n")
    assert stored(run) == {}


def test_another_machine_reads_what_was_stored(machine: Machine) -> None:
    run = machine("a")
    (run / "attempt_1").mkdir()
    with Mirror(run):
        (run / "events.jsonl").write_text("1\n2\n")
        (run / "attempt_1" / "progress.json").write_text("{}")
        begin(run / "checkpoint-1", Owner("r", "s", "k", 1))
    there = machine("b")
    # What only grows, and is longer here, is newer here.
    (there / "events.jsonl").write_text("1\n2\n3\n")
    pull(there)
    assert (there / "events.jsonl").read_text() == "1\n2\n3\n"
    assert (there / "attempt_1" / "progress.json").read_text() == "{}"
    assert not (there / "checkpoint-1").exists()


def test_a_file_that_another_machine_has_gone_on_with_is_brought(machine: Machine) -> None:
    one, two = machine("a"), machine("b")
    events = "1\n2\n"
    with Mirror(one):
        (one / "events.jsonl").write_text(events)
    pull(two)
    (one / "events.jsonl").write_text(f"{events}3, and more that was never stored\n")
    with Mirror(two):
        (two / "events.jsonl").write_text(f"{events}4\n")
    pull(one)
    assert (one / "events.jsonl").read_text() == f"{events}4\n"


def test_single_files_go_both_ways(machine: Machine) -> None:
    run = machine("a")
    (run / "stop_request").write_text("1")
    push_file(run / "stop_request")
    there = machine("b") / "stop_request"
    pull_file(there)
    assert there.read_text() == "1"
    place = place_of(there)
    assert place
    place.store.delete(place.key)
    pull_file(there)
    assert not there.exists()


def test_on_a_disk_there_is_nothing_to_do(tmp_path: Path) -> None:
    with Mirror(tmp_path):
        (tmp_path / "a").write_text("a")
    pull(tmp_path)
    pull_file(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("where", ["disk", "store"])
def test_of_two_writers_the_earlier_one_is_fenced_out(
    where: str, machine: Machine, tmp_path: Path
) -> None:
    folder = machine("a") if where == "store" else tmp_path
    first, second = FencedFile(folder / "status.json"), FencedFile(folder / "status.json")
    assert first.create(b"1")
    assert not second.create(b"2")
    first.write(b"1, again")
    assert second.read() == b"1, again"
    second.write(b"2")
    assert second.is_known()
    assert not first.is_known()
    with pytest.raises(FencedOut, match="another process"):
        first.write(b"1, late")
    assert second.read() == b"2"
    assert (folder / "status.json").read_bytes() == b"2"

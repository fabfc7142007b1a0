"""Which checkpoints stay."""

from pathlib import Path

import pytest

from storage.commit import begin, commit
from storage.layout import Layout, StageLayout
from storage.manifest import Owner
from storage.retention import prune

OWNER = Owner("r1", "sft", "key", 1)


@pytest.fixture
def stage(tmp_path: Path) -> StageLayout:
    return Layout(tmp_path).run("bot", "r1").stage("sft")


def save(stage: StageLayout, *steps: int, committed: bool = True) -> None:
    for step in steps:
        folder = stage.checkpoint(step)
        begin(folder, OWNER)
        (folder / "model.bin").write_bytes(b"weights")
        if committed:
            commit(folder, OWNER, {"step": step})


def steps(stage: StageLayout) -> list[int]:
    return [int(folder.name.removeprefix("checkpoint-")) for folder in stage.checkpoints()]


def test_the_oldest_go_first(stage: StageLayout) -> None:
    save(stage, 9, 10, 100, 20)
    assert prune(stage, keep=2) == [stage.checkpoint(9), stage.checkpoint(10)]
    assert steps(stage) == [20, 100]


def test_none_keeps_all(stage: StageLayout) -> None:
    save(stage, 1, 2, 3)
    assert prune(stage, keep=None) == []
    assert steps(stage) == [1, 2, 3]


def test_protected_ones_stay(stage: StageLayout) -> None:
    save(stage, 1, 2, 3)
    prune(stage, keep=1, protect={stage.checkpoint(1)})
    assert steps(stage) == [1, 3]


def test_garbage_goes_and_work_in_the_making_stays(stage: StageLayout) -> None:
    save(stage, 1, 3)
    save(stage, 2, 4, committed=False)
    prune(stage, keep=None)
    assert steps(stage) == [1, 3, 4]


def test_nothing_goes_while_nothing_is_committed(stage: StageLayout) -> None:
    save(stage, 1, 2, committed=False)
    assert prune(stage, keep=1) == []
    assert steps(stage) == [1, 2]


def test_a_damaged_newest_does_not_count_as_kept(stage: StageLayout) -> None:
    save(stage, 1, 2, 3)
    (stage.checkpoint(3) / "model.bin").write_bytes(b"short")
    prune(stage, keep=1)
    assert steps(stage) == [2, 3]


def test_foreign_and_unreadable_folders_stay(stage: StageLayout) -> None:
    save(stage, 1, 3)
    stage.checkpoint(0).mkdir()
    (stage.checkpoint(0) / "mine.txt").write_text("mine")
    save(stage, 2, committed=False)
    (stage.checkpoint(2) / "_COMMITTED.json").mkdir()
    prune(stage, keep=1)
    assert steps(stage) == [0, 2, 3]


def test_the_newest_may_not_be_asked_away(stage: StageLayout) -> None:
    save(stage, 1)
    with pytest.raises(ValueError, match="1 or more"):
        prune(stage, keep=0)
    assert steps(stage) == [1]

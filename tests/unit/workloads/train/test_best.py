"""Which checkpoint is kept and left as the artifact, where the best one is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.spec.checkpoint import CheckpointSpec
from storage.commit import begin, commit
from storage.layout import StageLayout
from storage.manifest import Owner
from workloads.train.best import best_step, saved_history

LOWEST = CheckpointSpec(load_best_model_at_end=True)
HIGHEST = CheckpointSpec(load_best_model_at_end=True, metric_for_best_model="eval_token_acc")
OWNER = Owner("run-1", "sft", "key", 1)
HISTORY = [
    {"global_step": 2, "loss": 0.1},
    {"global_step": 2, "eval_loss": 3.0, "eval_token_acc": 0.5},
    {"global_step": 4, "eval_loss": 2.0, "eval_token_acc": 0.7},
    {"global_step": 6, "eval_loss": 2.0, "eval_token_acc": 0.9},
    {"global_step": 8, "eval_loss": 1.0, "eval_token_acc": 0.1},
]


def save(layout: StageLayout, step: int, history: list[dict[str, Any]], *, done: bool) -> None:
    folder = layout.checkpoint(step)
    begin(folder, OWNER)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    if done:
        commit(folder, OWNER, {"step": step})


@pytest.fixture
def layout(tmp_path: Path) -> StageLayout:
    """A stage with checkpoints of steps 2 to 6, and one that was never finished."""
    layout = StageLayout(tmp_path / "stages" / "sft")
    for count, step in enumerate((2, 4, 6), 2):
        save(layout, step, HISTORY[:count], done=True)
    save(layout, 8, HISTORY, done=False)
    return layout


def test_the_best_of_those_that_are_committed(layout: StageLayout) -> None:
    assert best_step(HISTORY, LOWEST, layout) == 4, "the first of equals; 8 is not committed"
    assert best_step(HISTORY, HIGHEST, layout) == 6


def test_no_number_is_never_the_best(layout: StageLayout) -> None:
    diverged = [{"global_step": 2, "eval_loss": float("nan")}, *HISTORY[2:]]
    assert best_step(diverged, LOWEST, layout) == 4


def test_without_an_evaluated_checkpoint_there_is_none(layout: StageLayout) -> None:
    assert best_step(HISTORY[:1], LOWEST, layout) is None
    assert best_step(HISTORY[4:], LOWEST, layout) is None


def test_the_history_is_that_of_the_newest_committed_checkpoint(
    layout: StageLayout, tmp_path: Path
) -> None:
    assert saved_history(layout) == HISTORY[:4]
    assert saved_history(StageLayout(tmp_path / "none")) == []

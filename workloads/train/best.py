"""Which checkpoint has the best validation, told by the log that each checkpoint carries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isnan
from pathlib import Path
from typing import Any

from jobs.spec.checkpoint import CheckpointSpec
from storage.committed import newest_committed, present, read_committed
from storage.layout import StageLayout


def best_step(
    history: Iterable[Mapping[str, Any]], spec: CheckpointSpec, layout: StageLayout
) -> int | None:
    """The step of the committed checkpoint with the best value, the first of equals.

    `history` has the records of training, in order of steps. None where no checkpoint was taken at
    a step that was evaluated, or none is asked for.
    """
    if not spec.load_best_model_at_end:
        return None
    metric, sign = spec.metric_for_best_model, -1 if spec.greater_is_better else 1
    there = set(layout.checkpoints())
    measured = [
        (sign * record[metric], int(record["global_step"]))
        for record in history
        if metric in record and not isnan(record[metric])
    ]
    saved = [each for each in measured if layout.checkpoint(each[1]) in there]
    committed = (step for _, step in sorted(saved) if read_committed(layout.checkpoint(step)))
    return next(committed, None)


def saved_history(layout: StageLayout) -> list[dict[str, Any]]:
    """The records of training up to the newest committed checkpoint."""
    # It imports torch, for which a driver has no other use.
    from workloads.train.checkpoint import STATE_FILE

    newest = newest_committed(layout.checkpoints())
    if newest is None:
        return []
    state = json.loads(Path(present(newest.folder), STATE_FILE).read_bytes())
    history: list[dict[str, Any]] = state["log_history"]
    return history

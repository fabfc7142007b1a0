"""What `raysmith diff` prints: how two runs differ in settings, code, data and results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.observed import StageStatus, is_recorded, read_status, refresh
from jobs.view.artifacts import read_lock
from jobs.view.status import table
from storage.committed import read_committed
from storage.layout import AttemptLayout, RunLayout, run_of
from storage.working_copy import here

_SETTLED = ("storage", "base_folders")
"""What of a plan says where a run is, and not what it does."""
_ASIDE = {"elapsed_time", "remaining_time", "global_step", "max_steps", "epoch", "memory_gib"}
"""What of a record is no result."""


def difference(first: RunLayout, second: RunLayout) -> str:
    """How the second run differs from the first, in sections; a value that is not there is `-`.

    Raises:
        UserError: a folder holds no readable record.
    """
    names = tuple(s.full_name for s in (read_status(first), read_status(second)))
    sections = [
        ("settings", _changed(_plan(first), _plan(second))),
        ("made of", _changed(_made_of(first), _made_of(second))),
        ("results", _changed(_results(first), _results(second))),
    ]
    lines = []
    for title, rows in sections:
        if rows:
            lines += ["", *table([(title, *names), *rows])]
    return "\n".join(lines[1:]) if lines else f"{names[0]} and {names[1]} do not differ"


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, ...]]:
    paths = dict.fromkeys((*first, *second))
    return [
        (path, _text(first, path), _text(second, path))
        for path in paths
        if first.get(path) != second.get(path) or (path in first) != (path in second)
    ]


def _text(values: Mapping[str, Any], path: str) -> str:
    if path not in values:
        return "-"
    value = values[path]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plan(layout: RunLayout) -> dict[str, Any]:
    try:
        plan = json.loads(layout.plan.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    stages = {stage["name"]: stage for stage in plan.pop("stages", ())}
    whole = {**plan, "stages": stages}
    return dict(_flat({k: v for k, v in whole.items() if k not in _SETTLED}))


def _made_of(layout: RunLayout) -> dict[str, Any]:
    lock = read_lock(layout)
    lock.pop("asked", None)
    lock.pop("stage_keys", None)  # they differ by what is told already
    return dict(_flat(lock))


def _results(layout: RunLayout) -> dict[str, Any]:
    """The last values of what each stage's newest attempt recorded, or of a stage from the cache
    the attempt that made its artifact, in the run that it was taken from."""
    found: dict[str, Any] = {}
    for stage in read_status(layout).stages:
        found[f"{stage.name}.state"] = stage.state.value
        if attempt := _attempt(layout, stage):
            log = attempt.logging_jsonl
            for record in _records(log.read_text(encoding="utf-8") if log.exists() else ""):
                values = {k: v for k, v in record.items() if k not in _ASIDE}
                found |= {f"{stage.name}.{key}": value for key, value in values.items()}
    return found


def _attempt(layout: RunLayout, stage: StageStatus) -> AttemptLayout | None:
    """The attempt that a stage's results are of."""
    if not stage.origin or not stage.artifact:
        return layout.stage(stage.name).attempt(stage.attempt) if stage.attempt else None
    folder = here(Path(stage.artifact))
    manifest = read_committed(folder)
    if manifest is None:
        return None
    run, owner = run_of(folder), manifest.owner
    if is_recorded(run):
        refresh(run)
    return run.stage(owner.stage).attempt(owner.attempt)


def _records(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return  # the last line, which is being written


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value

"""What `raysmith run` says when it ends: what came of the run, where, and what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jobs.observed import RunStatus, StageStatus
from jobs.state import FailureClass, RunState, StageState
from jobs.view.status import duration, shown, shown_here
from storage.layout import RunLayout
from storage.working_copy import here


def closing(
    status: RunStatus,
    layout: RunLayout,
    timings: Mapping[str, float],
    command: str = "the same command",
) -> str:
    """What to tell the user after the run: what came of it, where, and what to do next.

    `timings` are seconds by name; `command` is the line that started the run.
    """
    took = ", ".join(f"{name} {duration(seconds)}" for name, seconds in timings.items())
    lines = [
        f"{status.full_name} {status.state.value}",
        *([f"time: {took}"] * bool(took)),
    ]
    for stage in status.stages:
        if stage.state is StageState.FAILED:
            lines += _failure(stage, layout)
    if status.message:
        lines.append(status.message)
    lines += [
        *_section("artifacts", _artifacts(status)),
        *_section("curves", _curves(status, layout)),
    ]
    return "\n".join([*lines, *_section("next", _next_steps(status, layout, command))])


def _failure(stage: StageStatus, layout: RunLayout) -> Iterator[str]:
    yield f"stage {stage.name} failed: {stage.reason or FailureClass.UNKNOWN}"
    yield from (f"  {line}" for line in (stage.message or "no message").splitlines())
    log = layout.events
    if stage.attempt and layout.stage(stage.name).attempt(stage.attempt).driver_log.exists():
        log = layout.stage(stage.name).attempt(stage.attempt).driver_log
    yield f"  log: {shown_here(log)}"


def _artifacts(status: RunStatus) -> Iterator[str]:
    for stage in status.stages:
        if stage.state.has_artifact and stage.artifact:
            cached = "  (cached)" if stage.state is StageState.CACHED else ""
            yield f"{stage.name}: {shown(stage.artifact)}{cached}"


def _curves(status: RunStatus, layout: RunLayout) -> Iterator[str]:
    for stage in status.stages:
        if stage.attempt:
            attempt = layout.stage(stage.name).attempt(stage.attempt)
            if attempt.images.is_dir():
                yield f"{stage.name}: {shown_here(attempt.images)}"
            if attempt.logging_jsonl.is_file():
                yield f"{stage.name}: {shown_here(attempt.logging_jsonl)}"
            if attempt.tensorboard.is_dir():
                folder = shlex.quote(shown_here(attempt.tensorboard))
                yield f"{stage.name}: tensorboard --logdir {folder}"


def _next_steps(status: RunStatus, layout: RunLayout, command: str) -> Iterator[str]:
    reasons = {stage.reason for stage in status.stages if stage.state is StageState.FAILED}
    if FailureClass.USER_ERROR in reasons:
        yield f"{command}   (mend the cause first; stages that ended well are not run again)"
    elif FailureClass.GATE_NOT_MET in reasons:
        yield f"{command}   (looks at the gate again; what was answered is kept)"
    elif status.state is not RunState.SUCCEEDED:
        yield f"{command}   (goes on from the last committed checkpoint)"
    folder = _quoted(layout.folder)
    yield f"raysmith status {folder}"
    yield f"raysmith logs {folder}"
    models = [stage.artifact for stage in status.stages if _is_full_model(stage)]
    if models and models[-1]:
        yield _load_snippet(Path(models[-1]))


def _is_full_model(stage: StageStatus) -> bool:
    return bool(
        stage.state.has_artifact
        and stage.artifact
        and (here(Path(stage.artifact)) / "config.json").is_file()
    )


def _load_snippet(folder: Path) -> str:
    model = json.dumps(shown_here(folder), ensure_ascii=False)
    return "python -c " + shlex.quote(
        f'from transformers import pipeline; chat = pipeline("text-generation", {model}); '
        'print(chat([{"role": "user", "content": "Who are you?"}], max_new_tokens=64)'
        '[0]["generated_text"][-1]["content"])'
    )


def _section(title: str, lines: Iterable[str]) -> list[str]:
    body = [f"  {line}" for line in lines]
    return ["", f"{title}:", *body] if body else []


def _quoted(path: Path) -> str:
    return shlex.quote(shown(path))

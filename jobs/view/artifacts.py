"""What `raysmith artifacts` prints: what each stage of a run left, and what it was made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.observed import read_status
from jobs.state import StageState
from jobs.view.edges import Edges, read_edges
from jobs.view.status import shown, table
from storage.committed import inspect
from storage.layout import RunLayout
from storage.working_copy import here

_HEADINGS = ("stage", "type", "size", "step", "digest", "made of", "in")
_DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Artifact:
    """What a stage left. The digest is equal for equal content."""

    stage: str
    type: str
    size_bytes: int
    step: int | None
    digest: str
    key: str
    """Of all that it follows from: the stage's settings, its inputs' digests, versions."""
    inputs: dict[str, str]
    """The stages whose artifacts it was made of, by the field that took each."""
    run: str
    """The run that made it: `name/run_id`; an earlier one where it was taken from there."""
    made_of: dict[str, Any]
    """As it was committed: `inputs`, each with its `name` and `digest`, and the `run`, `stage` and
    `key` that an artifact is of, or the `source` of anything else; `code` and `versions`."""
    cached: bool
    """Whether an earlier run made it."""
    path: str
    problem: str
    """What is wrong with it; empty when nothing is."""


def artifacts(layout: RunLayout) -> list[Artifact]:
    """The artifacts of a run's stages, in the plan's order.

    Raises:
        UserError: the folder holds no readable record.
    """
    status = read_status(layout)
    edges = read_edges(layout)
    found = []
    for stage in status.stages:
        if not (stage.artifact and stage.state.has_artifact):
            continue
        folder = here(Path(stage.artifact))
        verdict = inspect(folder)
        manifest = verdict.manifest
        meta = manifest.meta if manifest else {}
        step, made_of = meta.get("step"), meta.get("made_of")
        found.append(
            Artifact(
                stage=stage.name,
                type=str(meta.get("type", "")),
                size_bytes=manifest.size_bytes if manifest else 0,
                step=step if isinstance(step, int) else None,
                digest=manifest.digest if manifest else "",
                key=manifest.owner.key if manifest else "",
                inputs=dict(edges.get(stage.name, Edges()).inputs),
                run=stage.origin or status.full_name,
                made_of=made_of if isinstance(made_of, dict) else {},
                cached=stage.state is StageState.CACHED,
                path=shown(folder),
                problem=verdict.reason,
            )
        )
    return found


def artifacts_text(layout: RunLayout) -> str:
    """The artifacts as a table, and what code made them."""
    found = artifacts(layout)
    if not found:
        return "no artifacts yet"
    lock = read_lock(layout)
    lines = table([_HEADINGS, *(_row(each) for each in found)])
    problems = [f"{each.stage}: {each.problem}" for each in found if each.problem]
    origins = [line for each in found for line in ("", *_origin(each))]
    git = lock.get("git_revision") or "no git revision"
    code = f"code: raysmith {str(lock.get('fingerprint', ''))[:_DIGEST_LENGTH]}, spec at {git}"
    return "\n".join([*lines, *problems, *origins, "", code])


def artifacts_json(layout: RunLayout) -> str:
    """The artifacts as JSON."""
    return json.dumps([asdict(each) for each in artifacts(layout)], indent=2, ensure_ascii=False)


def read_lock(layout: RunLayout) -> dict[str, Any]:
    """What the run's results follow from; empty where it is not known."""
    try:
        found: dict[str, Any] = json.loads(layout.lock.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _row(artifact: Artifact) -> tuple[str, ...]:
    return (
        artifact.stage,
        artifact.type + " (cached)" * artifact.cached,
        size_text(artifact.size_bytes),
        "" if artifact.step is None else str(artifact.step),
        artifact.digest[:_DIGEST_LENGTH],
        ", ".join(artifact.inputs.values()),
        artifact.path,
    )


def _origin(artifact: Artifact) -> list[str]:
    """What an artifact is made of, a line to each input."""
    key = f", key {artifact.key[:_DIGEST_LENGTH]}" * bool(artifact.key)
    lines = [f"{artifact.stage}: made in {artifact.run}{key}"]
    made_of = artifact.made_of
    if rows := [_input(each) for each in made_of.get("inputs", ())]:
        lines += [f"  {line}" for line in table(rows)]
    versions = ", ".join(f"{name} {text}" for name, text in made_of.get("versions", {}).items())
    if code := str(made_of.get("code", "")):
        lines.append(f"  code {code[:_DIGEST_LENGTH]}; {versions}")
    return lines


def _input(entry: dict[str, Any]) -> tuple[str, ...]:
    source = entry.get("source") or " ".join(filter(None, (entry.get("run"), entry.get("stage"))))
    return str(entry.get("name")), source, str(entry.get("digest", ""))[:_DIGEST_LENGTH]


def size_text(count: float) -> str:
    """Bytes as people say them: `1.2 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"

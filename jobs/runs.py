"""How runs and their artifacts are found in storage: by its index, and then looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jobs.errors import UserError
from jobs.observed import RunStatus, entry_of, is_recorded, read_status
from jobs.state import RunState, StageState
from storage.committed import newest_committed, read_committed
from storage.index import ArtifactEntry, Index, RunEntry
from storage.layout import Layout, RunLayout, StageLayout, run_of
from storage.uri import parse_uri
from storage.working_copy import here, root_of

_LISTED_RUNS = 5


def find_run(layout: Layout, name: str, digest: str) -> RunStatus | None:
    """The newest run of this name that would do the same."""
    for entry in entries(layout):
        if entry.name == name and entry.has(digest):
            status = status_at(layout, entry)
            if status and status.digest == digest:
                return status
    return None


def find_artifact(layout: Layout, key: str) -> Path | None:
    """The newest committed artifact that a stage with this key left in any run."""
    index = Index(layout.root)
    if index.is_empty():
        reindex(layout)
    for entry in index.artifacts(key):
        folder = layout.run(entry.name, entry.run_id).artifact(entry.stage)
        manifest = read_committed(folder, verify="sizes")
        if manifest and manifest.owner.key == key:
            return folder
    return None


@dataclass(frozen=True)
class Next:
    """What running a stage would come to."""

    action: Literal["run", "resume", "cached"]
    run: str | None = None
    """The run that the artifact is taken from, or that is gone on with: `name/run_id`."""
    step: int | None = None
    """The step of the newest committed checkpoint to resume from, where there is one."""

    def __str__(self) -> str:
        if self.action == "resume":
            return f"resume {f'from step {self.step} ' * (self.step is not None)}of {self.run}"
        return f"{self.action} from {self.run}" if self.run else self.action


def actions(
    layout: Layout, name: str, digest: str, keys: Mapping[str, str], forced: Sequence[str] = ()
) -> dict[str, Next]:
    """What running each stage of these keys would come to.

    Those in `forced` take nothing from earlier runs, but go on in a run in which they were forced.
    """
    run = find_run(layout, name, digest)
    if run and not goes_on(run, forced):
        run = None
    begun = {stage.name: stage.key for stage in run.stages if stage.attempt} if run else {}

    def action(stage: str, key: str) -> Next:
        if stage not in forced and (found := find_artifact(layout, key)):
            return Next("cached", run_of(found).full_name)
        if run and begun.get(stage) == key:
            there = layout.run(run.name, run.run_id)
            return Next("resume", there.full_name, _newest_step(there.stage(stage)))
        return Next("run")

    return {stage: action(stage, key) for stage, key in keys.items()}


def goes_on(found: RunStatus, forced: Sequence[str]) -> bool:
    """Whether a job goes on with a run that would do the same: what was forced is, if not done."""
    if not forced:
        return True
    return found.forced == tuple(forced) and found.state is not RunState.SUCCEEDED


def _newest_step(stage: StageLayout) -> int | None:
    newest = newest_committed(stage.checkpoints())
    step = newest.manifest.meta.get("step") if newest else None
    return step if isinstance(step, int) else None


def resolve_run(layout: Layout, text: str = "") -> RunLayout:
    """The run that `text` means: a run's folder or URI, `name/run_id`, a run id, or a name.

    Of several, and of all when `text` is empty, the one whose state changed last.

    Raises:
        UserError: there is no such run; the message lists the newest ones.
    """
    run, known = _named(layout, text)
    if run is None:
        raise _no_run(layout, known, f"no run {text!r}" if text else "no run")
    return run


def run_and_stage(
    layout: Layout, text: str, stage: str | None = None
) -> tuple[RunLayout, str | None]:
    """The run that `text` means, as in `resolve_run`, and the stage to look at.

    Where there is no such run and no stage is given, `text` is taken for a stage, of the newest
    run that has one called so.

    Raises:
        UserError: there is no such run, nor such a stage.
    """
    run, known = _named(layout, text)
    if run:
        return run, stage
    if stage is not None or not text:
        raise _no_run(layout, known, f"no run {text!r}" if text else "no run")
    newest: RunStatus | None = None
    for entry in known:
        status = status_at(layout, entry)
        if status and text in (each.name for each in status.stages):
            return layout.run(entry.name, entry.run_id), text
        newest = newest or status
    stages = ", ".join(each.name for each in newest.stages) if newest else ""
    what = f"no run, and no run with a stage, called {text!r}"
    raise _no_run(layout, known, what, f"; the stages of the newest are: {stages}")


def _named(layout: Layout, text: str) -> tuple[RunLayout | None, list[RunEntry]]:
    """The run that `text` means, if any; and the index, where it had to be read."""
    if text and is_recorded(named := run_at(text)):
        return named, []
    known = entries(layout)
    for entry in known:
        if text in ("", entry.name, entry.run_id, entry.full_name):
            run = layout.run(entry.name, entry.run_id)
            if is_recorded(run):
                return run, known
    return None, known


def _no_run(layout: Layout, known: Sequence[RunEntry], what: str, more: str = "") -> UserError:
    names = [entry.full_name for entry in known[:_LISTED_RUNS]]
    return UserError(
        f"there is {what} in {layout.root}",
        remedy=f"choose one of: {', '.join(names)}{more}"
        if names
        else "start one with `raysmith run SPEC`, or say where runs lie with --storage",
    )


def run_at(text: str) -> RunLayout:
    """The run in a folder, or at a URI such as `s3://bucket/prefix/name/run_id`.

    Raises:
        UserError: the URI is of no storage, or of no run.
    """
    if "://" not in text:
        return RunLayout(here(Path(text).absolute()))
    uri = parse_uri(text)
    *root, name, run_id = uri.path.rstrip("/").split("/")
    if not any(root):
        raise UserError(f"{text!r} is not the URI of a run", "give STORAGE/NAME/RUN_ID, or a name")
    return RunLayout(root_of(str(replace(uri, path="/".join(root)))) / name / run_id)


def recorded_runs(layout: Layout, name: str) -> Iterator[tuple[RunLayout, RunStatus]]:
    """The runs of this name and how they stand, those whose state changed last first."""
    for entry in entries(layout):
        if entry.name == name and (status := status_at(layout, entry)):
            yield layout.run(name, entry.run_id), status


def entries(layout: Layout) -> list[RunEntry]:
    """What the index says of all runs; of a storage that has none yet it is made."""
    index = Index(layout.root)
    return index.runs() or reindex(layout)


def reindex(layout: Layout) -> list[RunEntry]:
    """Makes the index anew from the runs that there are."""
    index = Index(layout.root)
    for entry in index.runs():
        if not is_recorded(layout.run(entry.name, entry.run_id)):
            index.forget_run(entry.name, entry.run_id)
    for name in layout.names():
        for run_id in layout.runs(name):
            run = layout.run(name, run_id)
            try:
                status = read_status(run)
            except UserError:
                continue  # being created, or of a version that this one can't read
            index.put(entry_of(status))
            for stage in status.stages:
                if stage.state is StageState.SUCCEEDED and stage.key and stage.artifact:
                    index.put_artifact(stage.key, ArtifactEntry(run_id, name, stage.name))
    return index.runs()


def status_at(layout: Layout, entry: RunEntry) -> RunStatus | None:
    """How the run of an entry stands; None where there is none, or none that can be read."""
    try:
        return read_status(layout.run(entry.name, entry.run_id))
    except UserError:
        return None  # removed by hand, or of a version that this one can't read

"""An export stage: makes the model's folder, commits it, and then pushes it.

A push that fails leaves the committed folder, and the next attempt only pushes.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from jobs.observed import Progress, timestamp, utc_now, write_progress
from jobs.spec.export import ExportSpec
from storage.commit import begin, commit
from storage.committed import read_committed
from workloads.context import StageContext, StageResult
from workloads.export.card import model_card
from workloads.export.lineage import read_lineage
from workloads.export.report import REPORT_FILE, Report, report_lines
from workloads.export.task import ExportTask
from workloads.failures import root
from workloads.models.adapter import base_model
from workloads.models.taken import taken_model

CARD = "README.md"


def run(context: StageContext) -> StageResult:
    """Exports a model, unless an earlier attempt did, and pushes it where the spec says so.

    Raises:
        ForeignFolder: if the artifact's folder holds files that this stage did not write.
        UserError: if model, adapter or destination are wrong.
        RaysmithError: if the model lost more by quantization than the spec allows.
        ConnectionError: if the destination could not be reached.
    """
    spec = context.stage.spec
    assert isinstance(spec, ExportSpec)
    timings = {}
    clock = time.monotonic()
    if not _is_made(context):
        _make(context, spec)
        timings["export"] = time.monotonic() - clock
    for line in report_lines(_report(context)):
        context.note(line)
    if spec.push:
        clock = time.monotonic()
        _push(context, spec)
        timings["push"] = time.monotonic() - clock
    return StageResult(finished=True, timings=timings)


def _is_made(context: StageContext) -> bool:
    """Whether an earlier attempt has committed the folder, of this run and with this key."""
    manifest = read_committed(context.artifact)
    return bool(
        manifest
        and manifest.owner.same_stage(context.owner)
        and manifest.owner.key == context.owner.key
    )


def _make(context: StageContext, spec: ExportSpec) -> None:
    begin(context.artifact, context.owner)
    task = _task(context, spec)
    try:
        _on_a_worker(context, _make_model, task)
    finally:
        shutil.rmtree(task.scratch, ignore_errors=True)
    lineage = read_lineage(context.layout.run, context.stage.name)
    card = model_card(spec, lineage, _report(context))
    (context.artifact / CARD).write_text(card, encoding="utf-8")
    commit(context.artifact, context.owner, context.meta(type="export"))


def _task(context: StageContext, spec: ExportSpec) -> ExportTask:
    source = taken_model(context, "model", spec.model)
    adapter = None
    if source.is_adapter:
        adapter, source = source.name, base_model(Path(source.name), context.base_folders)
    scratch = context.layout.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    return ExportTask(
        name=context.layout.run.folder.parent.name,
        base=source,
        adapter=adapter,
        spec=spec,
        target=str(context.artifact),
        scratch=str(scratch),
        progress_json=str(context.attempt.progress_json),
    )


def _on_a_worker(context: StageContext, function: Any, *arguments: Any) -> Any:
    """What a function returns that computes on one of the cluster's machines."""
    import ray
    from ray.exceptions import RayTaskError

    cpus = context.cluster.cpus_per_worker(1)
    try:
        return ray.get(ray.remote(num_cpus=cpus, max_retries=0)(function).remote(*arguments))
    except RayTaskError as error:
        raise root(error) from error


def _make_model(task: ExportTask) -> None:
    from workloads.export.make import make

    make(task)


def _push(context: StageContext, spec: ExportSpec) -> None:
    assert spec.push
    write_progress(
        context.attempt.progress_json,
        Progress(phase=f"pushing to {spec.push.to}", updated_at=timestamp(utc_now())),
    )
    message = spec.push.commit_message or (
        f"{context.layout.run.folder.parent.name}: stage {context.stage.name} of run "
        f"{context.owner.run_id}"
    )
    pushed = _on_a_worker(context, _push_folder, str(context.artifact), spec.push, message)
    context.event("pushed", to=spec.push.to, **pushed)
    sent, skipped = pushed["sent"], pushed["unchanged"]
    context.note(f"pushed to {pushed['url']}: {sent} files sent, {skipped} unchanged")


def _push_folder(folder: str, spec: Any, message: str) -> dict[str, Any]:
    from workloads.export.push import push

    return push(Path(folder), spec, message)


def _report(context: StageContext) -> Report:
    return Report.model_validate_json((context.artifact / REPORT_FILE).read_bytes())

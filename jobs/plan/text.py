"""A plan as a table for people."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.plan.derive import accumulation_steps
from jobs.plan.resolve import Plan, StagePlan
from jobs.spec.sft import SftSpec
from jobs.spec.training import TrainingSpec

_HEADER = ("stage", "kind", "model", "workers", "batch", "learning rate", "deepspeed", "leaves")
_MAX_MODEL = 40


def plan_text(plan: Plan, actions: Mapping[str, str]) -> str:
    """The plan as lines: the job, then one row to a stage in the order of running.

    `actions` says by stage what running it would come to: `run`, `resume` or `cached`.
    """
    rows = [(*_HEADER, "next"), *((*_row(stage), actions[stage.name]) for stage in plan.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    head = f"{plan.name}: {_chain(plan)}\nseed {plan.seed}, storage {plan.storage}\n"
    return "\n".join((head, *lines))


def summary(plan: Plan) -> str:
    """The stages in brief: `2 stages: sft -> merge`."""
    count = len(plan.stages)
    return f"{count} {'stage' if count == 1 else 'stages'}: {_chain(plan)}"


def _chain(plan: Plan) -> str:
    is_chain = all(
        before.name in after.needs
        for before, after in zip(plan.stages, plan.stages[1:], strict=False)
    )
    return (" -> " if is_chain else ", ").join(stage.name for stage in plan.stages)


def _row(stage: StagePlan) -> tuple[str, ...]:
    spec = stage.spec
    model = spec.model if len(spec.model) <= _MAX_MODEL else f"…{spec.model[-_MAX_MODEL:]}"
    if not isinstance(spec, SftSpec):
        return stage.name, spec.kind, model, "-", "-", "-", "-", stage.produces
    training, resources = spec.training, spec.resources
    device = "GPU" if resources.gpus_per_worker else "CPU"
    rows, passes = training.per_device_train_batch_size, accumulation_steps(training, resources)
    batch = (
        f"{training.global_batch_size} rows = {rows} x {_count(passes, 'pass', 'passes')} x "
        f"{_count(resources.workers, 'worker', 'workers')}"
    )
    rate = _rate(training)
    return (
        stage.name,
        spec.kind,
        model,
        f"{resources.workers} {device}",
        batch,
        rate,
        training.deepspeed,
        stage.produces,
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _rate(training: TrainingSpec) -> str:
    return f"{training.learning_rate:.3g} {training.lr_scheduler_type}"

"""A plan as a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from jobs.plan.derive import accumulation_steps
from jobs.plan.resolve import Plan, StagePlan
from jobs.plan.sweep import trial_count, trial_spec, value_text
from jobs.spec.algorithm import AlgorithmSpec
from jobs.spec.dataset import PromptRowsSpec, SourceSpec
from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.export import ExportSpec
from jobs.spec.generation import PoolSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.job import Stage
from jobs.spec.rollout import RolloutSpec
from jobs.spec.sample import SampleSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import DomainSpec, SweepSpec
from jobs.spec.training import TrainingSpec

_HEADER = ("stage", "kind", "model", "workers", "batch", "learning rate", "deepspeed", "leaves")
_MAX_MODEL = 40
_MAX_SOURCES = 3
_SEARCHED = "searched"
_OF_BATCH = {
    "training.global_batch_size", "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps", "rollout.num_generations",
}  # fmt: skip


def plan_text(plan: Plan, actions: Mapping[str, object]) -> str:
    """The plan as lines: the job, one row to a stage in the order of running, and what rows lack.

    `actions` says by stage what running it would come to, such as `run` or `cached from bot/run-1`.
    """
    nexts = [(*_row(stage), str(actions[stage.name])) for stage in plan.stages]
    rows = [(*_HEADER, "next"), *nexts]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    head = f"{plan.name}: {_chain(plan)}\nseed {plan.seed}, storage {plan.storage}\n"
    more = [line for stage in plan.stages for line in _details(stage)]
    return "\n".join((head, *lines, *more))


def plan_json(plan: Plan, actions: Mapping[str, Any]) -> str:
    """The plan as JSON, as `Plan.to_json`, and of each stage in `next` its action's fields."""
    content = json.loads(plan.to_json())
    for stage in content["stages"]:
        stage["next"] = asdict(actions[stage["name"]])
    return json.dumps(content, indent=2, ensure_ascii=False)


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
    model = _models(spec) if isinstance(spec, EvaluateSpec) else spec.model
    model = model if len(model) <= _MAX_MODEL else f"…{model[-_MAX_MODEL:]}"
    trained = trial_spec(spec, {}) if isinstance(spec, SweepSpec) else spec
    if not isinstance(trained, SftSpec | GrpoSpec):
        return stage.name, spec.kind, model, "-", "-", "-", "-", stage.produces
    training, resources = trained.training, trained.resources
    device = "GPU" if resources.gpus_per_worker else "CPU"
    rows, passes = training.per_device_train_batch_size, accumulation_steps(training, resources)
    unit = "completions" if isinstance(trained, GrpoSpec) else "rows"
    batch = (
        f"{training.global_batch_size} {unit} = {rows} x {_count(passes, 'pass', 'passes')} x "
        f"{_count(resources.workers, 'worker', 'workers')}"
    )
    searched = set(spec.search_space) if isinstance(spec, SweepSpec) else set()
    return (
        stage.name,
        spec.kind,
        _SEARCHED if "model" in searched else model,
        f"{resources.workers} {device}",
        _SEARCHED if searched & _OF_BATCH else batch,
        _SEARCHED if "training.learning_rate" in searched else _rate(training),
        _SEARCHED if "training.deepspeed" in searched else training.deepspeed,
        stage.produces,
    )


def _models(spec: EvaluateSpec) -> str:
    return spec.model or ", ".join(spec.models)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _rate(training: TrainingSpec) -> str:
    return f"{training.learning_rate:.3g} {training.lr_scheduler_type}"


def _details(stage: StagePlan) -> Iterator[str]:
    """What a stage with engines does, in a line to each part of it."""
    if lines := _parts(stage.spec):
        width = max(map(len, lines))
        yield ""
        yield f"{stage.name}:"
        yield from (f"  {name.ljust(width)}  {text}" for name, text in lines.items())


def _parts(spec: Stage) -> dict[str, str]:
    if isinstance(spec, GrpoSpec):
        return _grpo_parts(spec)
    if isinstance(spec, EvaluateSpec):
        return _evaluate_parts(spec)
    if isinstance(spec, SampleSpec):
        return _sample_parts(spec)
    if isinstance(spec, SweepSpec):
        return _sweep_parts(spec)
    return _export_parts(spec) if isinstance(spec, ExportSpec) else {}


def _sweep_parts(spec: SweepSpec) -> dict[str, str]:
    lines = {path: _domain(domain) for path, domain in spec.search_space.items()}
    at_once = spec.max_concurrent_trials
    room = f"{at_once} at a time" if at_once else "as many at a time as there is room for"
    best = "least" if spec.mode == "min" else "greatest"
    lines["trials"] = f"{trial_count(spec)} of kind {spec.trial.kind}, {room}"
    lines["best"] = f"the {best} {spec.metric}"
    lines["search"] = spec.search
    settings = spec.scheduler.model_dump(exclude={"type"})
    lines["scheduler"] = ", ".join((spec.scheduler.type, *_settings(settings)))
    budget = _settings(spec.budget.model_dump(exclude_none=True, exclude={"trials"}))
    if budget:
        lines["budget"] = ", ".join(budget)
    ends = ["with " + _count(spec.max_failed_trials + 1, "failed trial", "failed trials")]
    if spec.plateau:
        ends.append(
            f"{_count(spec.plateau.trials, 'trial', 'trials')} in a row without a better one"
        )
    lines["ends early"] = ", or ".join(ends)
    return lines


def _settings(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {' or '.join(map(str, value)) if isinstance(value, tuple) else f'{value:g}'}"
        for name, value in values.items()
    ]


def _domain(domain: DomainSpec) -> str:
    values = [value_text(value) for value in domain.values]
    if domain.name == "choice":
        return f"one of {', '.join(values)}"
    if domain.name in ("grid", "zip"):
        paired = ", paired" if domain.name == "zip" else ""
        return f"each of {', '.join(values)}{paired}"
    if domain.randint:
        return f"{values[0]} to {domain.randint[1] - 1}, whole numbers"
    return f"{values[0]} to {values[1]}, {domain.name}"


def _sample_parts(spec: SampleSpec) -> dict[str, str]:
    sampled, keep = spec.generation, spec.keep
    kept = [f"the best {keep.best}"] * bool(keep.best)
    if keep.min_reward is not None:
        kept.append(f"a reward of {keep.min_reward:g} or more")
    lines = {
        "prompts": _rows(spec.dataset),
        "answers": f"{spec.n} to each, up to {sampled.max_new_tokens} tokens, temperature "
        f"{sampled.temperature:g}",
    }
    if spec.rewards:
        lines["rewards"] = ", ".join(f"{each.weight:g} x {each.label}" for each in spec.rewards)
    lines["keep"] = ", ".join(kept) or "all"
    lines["engines"] = f"{spec.engine.actors}{_each(spec.engine)}"
    return lines


def _export_parts(spec: ExportSpec) -> dict[str, str]:
    lines = {"weights": f"{spec.torch_dtype or 'precision as they are'}, safetensors"}
    if spec.quantize:
        lines["quantize"] = spec.quantize.method
    if wanted := spec.gguf_wanted:
        lines["gguf"] = wanted.outtype + (", with a Modelfile for Ollama" if spec.ollama else "")
    if spec.push:
        lines["push"] = spec.push.to
    return lines


def _evaluate_parts(spec: EvaluateSpec) -> dict[str, str]:
    lines = {}
    if spec.models:
        lines["models"] = ", ".join(f"{name}: {model}" for name, model in spec.models.items())
    if dataset := spec.dataset:
        lines["rows"] = _rows(dataset)
        lines["metrics"] = ", ".join(spec.metrics)
    if spec.generates:
        sampled = spec.generation
        how = f"temperature {sampled.temperature:g}" if sampled.temperature else "greedy"
        lines["answers"] = f"up to {sampled.max_new_tokens} tokens, {how}"
    lines["engines"] = f"{spec.engine.actors}{_each(spec.engine)}"
    if spec.lm_eval:
        lines["lm-eval"] = ", ".join(spec.lm_eval.tasks)
    if spec.gate:
        lines["gate"] = ", ".join(f"{name} {bound}" for name, bound in spec.gate.items())
    return lines


def _grpo_parts(spec: GrpoSpec) -> dict[str, str]:
    lines = {
        "prompts": _rows(spec.dataset),
        "rewards": ", ".join(f"{reward.weight:g} x {reward.label}" for reward in spec.rewards),
        "engines": _engines(spec.rollout),
        "batch": _batch(spec),
        "steps": _steps(spec.training),
        "loss": _loss(spec.algorithm),
    }
    if spec.environment:
        name = spec.environment.name or spec.environment.import_path
        lines["environment"] = f"{name}, {_count(spec.environment.max_turns, 'turn', 'turns')}"
    return lines


def _rows(dataset: PromptRowsSpec) -> str:
    names = [_source(source) for source in dataset.sources[dataset.main_field]]
    more = f" and {len(names) - _MAX_SOURCES} more" if len(names) > _MAX_SOURCES else ""
    end = "are left out" if dataset.truncation_strategy == "delete" else "lose their beginning"
    return (
        f"{', '.join(names[:_MAX_SOURCES])}{more}; those of more than {dataset.max_length} tokens "
        f"{end}"
    )


def _source(source: SourceSpec) -> str:
    return f"{source.path}#{source.sample}" if source.sample else source.path


def _engines(rollout: RolloutSpec) -> str:
    place = ", on the workers' GPUs" if rollout.colocate else ""
    behind = _count(rollout.max_staleness, "update", "updates")
    return (
        f"{rollout.actors}{_each(rollout)}{place}; {rollout.engine}, {rollout.torch_dtype}; "
        f"{f'up to {behind} behind' if rollout.max_staleness else 'strictly on-policy'}"
    )


def _each(pool: RolloutSpec | PoolSpec) -> str:
    if pool.gpus_per_actor:
        return f" x {_count(pool.gpus_per_actor, 'GPU', 'GPUs')}"
    if pool.cpus_per_actor:
        return f" x {_count(pool.cpus_per_actor, 'core', 'cores')}"
    return " on CPUs"


def _batch(spec: GrpoSpec) -> str:
    steps = _count(spec.algorithm.steps_per_batch, "step", "steps")
    return (
        f"{_count(spec.prompts_per_generation, 'prompt', 'prompts')} x "
        f"{spec.rollout.num_generations} completions of up to "
        f"{spec.rollout.max_completion_length} tokens, for {steps}"
    )


def _steps(training: TrainingSpec) -> str:
    if training.max_steps:
        return str(training.max_steps)
    epochs = training.num_train_epochs
    return f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'} of the prompts"


def _loss(algorithm: AlgorithmSpec) -> str:
    part = "token" if algorithm.importance_sampling_level == "token" else "completion"
    scaled = "unscaled" if algorithm.scaling == "none" else f"scaled by {algorithm.scaling}"
    divergence = f"KL x {algorithm.beta:g}" if algorithm.beta else "no KL"
    return (
        f"{algorithm.loss_type}, a ratio for each {part}; advantages of "
        f"{algorithm.advantage_estimator}, {scaled}; {divergence}"
    )

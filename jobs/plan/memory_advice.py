"""What to say of a stage that ran out of memory: what was expected and seen, and what to change."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.plan.memory import Estimate, in_words, is_checkpointed
from jobs.spec.engine import EngineSpec
from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.job import Stage
from jobs.spec.sample import SampleSpec
from jobs.spec.serve import ServeSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec
from jobs.spec.tuner import LoraSpec

_MOST = 3
_USUAL_UTILIZATION = 0.9


def advice(name: str, spec: Stage, estimate: Estimate | None, measured_bytes: float | None) -> str:
    """The estimate against what was measured, and the three cheapest fixes, in lines."""
    expected = [f"estimated: {estimate}"] if estimate else []
    seen = [f"measured: {in_words(measured_bytes)} in a worker"] if measured_bytes else []
    found = [f"stages.{name}.{fix}" for fix in _fixes(spec)][:_MOST]
    fix = "; or ".join(found) or "use machines with more memory"
    return "\n".join(f"  {line}" for line in (*expected, *seen, f"fix: {fix}"))


def _fixes(spec: Stage) -> Iterator[str]:
    """What makes a stage smaller, the cheapest first."""
    if isinstance(spec, SweepSpec):
        if spec.max_concurrent_trials != 1:
            yield "max_concurrent_trials: 1"
        yield from (f"trial.{fix}" for fix in _fixes(spec.trial))
    elif isinstance(spec, GrpoSpec):
        if spec.rollout.colocate:
            on_gpus = bool(spec.resources.gpus_per_worker)
            yield from (f"rollout.{fix}" for fix in _engine_fixes(spec.rollout, on_gpus))
        yield from _training_fixes(spec)
    elif isinstance(spec, SftSpec):
        yield from _training_fixes(spec)
    elif isinstance(spec, EvaluateSpec | SampleSpec):
        on_gpus = bool(spec.engine.gpus_per_actor)
        yield from (f"engine.{fix}" for fix in _engine_fixes(spec.engine, on_gpus))
    elif isinstance(spec, ServeSpec):
        on_gpus = bool(spec.gpus_per_replica)
        yield from (f"engine.{fix}" for fix in _engine_fixes(spec.engine, on_gpus))


def _training_fixes(spec: SftSpec | GrpoSpec) -> Iterator[str]:
    training, resources = spec.training, spec.resources
    if training.per_device_train_batch_size > 1:
        half = training.per_device_train_batch_size // 2
        yield f"training.per_device_train_batch_size: {half} (the result stays the same)"
    if not is_checkpointed(spec):
        yield "training.gradient_checkpointing: true (about a third slower)"
    if training.torch_dtype == "float32":
        yield "training.torch_dtype: bfloat16"
    if resources.workers > 1 and training.deepspeed in ("zero0", "zero1"):
        yield "training.deepspeed: zero2 (shares optimiser and gradients out over the workers)"
    if not isinstance(spec.tuner, LoraSpec):
        yield "tuner: {type: lora} (trains about a hundredth of the weights)"
    if resources.workers > 1 and training.deepspeed == "zero2":
        yield "training.deepspeed: zero3 (shares the weights out too)"
    if resources.gpus_per_worker and "_offload" not in training.deepspeed:
        stage = training.deepspeed.replace("zero0", "zero1")
        yield f"training.deepspeed: {stage}_offload (optimiser states in host memory)"
    yield f"dataset.max_length: {max(spec.dataset.max_length // 2, 1)} (shorter rows)"
    if resources.workers > 1:
        yield "resources.workers: fewer on a machine"


def _engine_fixes(engine: EngineSpec, on_gpus: bool) -> Iterator[str]:
    if on_gpus:
        less = max((engine.gpu_memory_utilization or _USUAL_UTILIZATION) - 0.1, 0.1)
        yield f"gpu_memory_utilization: {less:.1f}"
    if engine.max_num_seqs > 1:
        yield f"max_num_seqs: {engine.max_num_seqs // 2} (fewer answers at once)"
    if not on_gpus:
        yield f"kv_cache: less than {engine.kv_cache}"
    yield "max_model_len: a smaller one (shorter prompts and answers)"

"""The values that follow from others when a spec leaves them out, each by one small rule."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.generation import PoolSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.resources import ResourcesSpec
from jobs.spec.rewards import RewardSpec
from jobs.spec.rollout import RolloutSpec
from jobs.spec.sample import SampleSpec
from jobs.spec.serve import ServeSpec
from jobs.spec.sft import SftSpec
from jobs.spec.training import TrainingSpec
from jobs.spec.tuner import FullSpec, LoraSpec

LEAST_GLOBAL_BATCH = 16
"""Rows that a global batch has at least, where the spec says nothing of its size."""

REPLY_TOKENS = 256
"""Tokens that an engine keeps free for each reply of an environment."""

_OF_TRAINING = {
    "learning_rate": "1e-4 for adapters, 1e-5 for full fine-tuning",
    "warmup_ratio": "0.05 when neither warmup_ratio nor warmup_steps is given",
    "gradient_accumulation_steps": "global_batch_size / (per_device_train_batch_size x workers)",
    "gradient_checkpointing": "on with GPUs, off without",
}

_OF_POOL = {
    "gpus_per_actor": "as tensor_parallel_size where that is more than 1, else 0",
    "gpu_memory_utilization": "0.9",
    "max_model_len": "dataset.max_length + generation.max_new_tokens",
}

RULES: Mapping[str, Mapping[str, str]] = {
    "sft": {
        **_OF_TRAINING,
        "global_batch_size": "rows of a pass x passes x workers, "
        "at least 16 when no passes are given",
        "per_device_eval_batch_size": "as per_device_train_batch_size",
        "eval_steps": "as checkpoint.save_steps",
    },
    "grpo": {
        **_OF_TRAINING,
        "global_batch_size": "completions of a pass x passes x workers; when no passes are given, "
        "at least 16, in whole passes and whole groups of num_generations",
        "gpus_per_actor": "as tensor_parallel_size where training has GPUs, else 0",
        "engine": "async on GPUs, inprocess on CPUs",
        "torch_dtype": "as training.torch_dtype",
        "gpu_memory_utilization": "0.9, or 0.45 where engines share the workers' GPUs",
        "max_model_len": "dataset.max_length + max_completion_length; with an environment, "
        f"max_completion_length for each turn, and {REPLY_TOKENS} for each reply",
        "canary_tolerance": "1e-3 where engine and training are in float32, else 0.2",
        "workers": "1 for built-in rewards and reward models, 4 for code and your functions",
        "scale_rewards": "group for grpo, none for rloo, batch for reinforce_plus_plus",
    },
    "sweep": {"max_concurrent_trials": "as many as the cluster has room for"},
    "evaluate": _OF_POOL,
    "sample": {
        **_OF_POOL,
        "workers": "1 for built-in rewards and reward models, 4 for code and your functions",
    },
    "serve": {
        "served_model_name": "the job's name",
        "gpus_per_replica": "as engine.tensor_parallel_size where that is more than 1, else 0",
        "target_ongoing_requests": "half of limits.max_ongoing_requests",
        "max_ongoing_requests": "twice engine.max_num_seqs",
        "gpu_memory_utilization": "0.9",
    },
}
"""What `plan --explain` says of a derived value, by the stage's kind and the value's field."""


def resolved_sft(spec: SftSpec) -> SftSpec:
    """The spec with every value given; accumulation is told by the global batch size alone."""
    given = spec.training
    values = {
        **_training_values(given, spec.tuner, spec.resources),
        "global_batch_size": global_batch_size(given, spec.resources),
        "per_device_eval_batch_size": given.per_device_eval_batch_size
        or given.per_device_train_batch_size,
        "eval_steps": given.eval_steps or spec.checkpoint.save_steps,
    }
    return spec.model_copy(update={"training": given.model_copy(update=values)})


def resolved_grpo(spec: GrpoSpec) -> GrpoSpec:
    """The spec with every value given, but for what the cluster and the prompts decide."""
    training, algorithm = spec.training, spec.algorithm
    training_values = {
        **_training_values(training, spec.tuner, spec.resources),
        "global_batch_size": completions_per_step(spec),
    }
    sections = {
        "training": training.model_copy(update=training_values),
        "algorithm": algorithm.model_copy(update={"scale_rewards": algorithm.scaling}),
        "rollout": resolved_rollout(spec),
        "rewards": tuple(resolved_reward(reward) for reward in spec.rewards),
    }
    return spec.model_copy(update=sections)


def resolved_evaluate(spec: EvaluateSpec) -> EvaluateSpec:
    """The spec with every value given, but for what the cluster and the models decide."""
    prompt = spec.dataset.max_length if spec.dataset else 0
    longest = prompt + (spec.generation.max_new_tokens if spec.generates else 1)
    return spec.model_copy(update={"engine": resolved_pool(spec.engine, longest)})


def resolved_sample(spec: SampleSpec) -> SampleSpec:
    """The spec with every value given, but for what the cluster and the model decide."""
    longest = spec.dataset.max_length + spec.generation.max_new_tokens
    return spec.model_copy(
        update={
            "engine": resolved_pool(spec.engine, longest),
            "rewards": tuple(resolved_reward(reward) for reward in spec.rewards),
        }
    )


def resolved_pool(pool: PoolSpec, longest: int) -> PoolSpec:
    """How engines are made that have to hold prompts and answers of `longest` tokens together."""
    values = {
        "gpus_per_actor": pool.gpus,
        "gpu_memory_utilization": pool.gpu_memory_utilization or 0.9,
        "max_model_len": pool.max_model_len or longest,
    }
    return pool.model_copy(update=values)


def resolved_serve(spec: ServeSpec, job: str) -> ServeSpec:
    """The spec with every value given, but for what the cluster and the model decide."""
    engine, limits = spec.engine, spec.limits
    ongoing = limits.max_ongoing_requests or 2 * engine.max_num_seqs
    target = spec.replicas.target_ongoing_requests or ongoing / 2
    gpus = spec.gpus_per_replica
    if gpus is None:
        gpus = engine.tensor_parallel_size if engine.tensor_parallel_size > 1 else 0
    memory = engine.gpu_memory_utilization or 0.9
    values = {
        "served_model_name": spec.served_model_name or job,
        "gpus_per_replica": gpus,
        "replicas": spec.replicas.model_copy(update={"target_ongoing_requests": target}),
        "limits": limits.model_copy(update={"max_ongoing_requests": ongoing}),
        "engine": engine.model_copy(update={"gpu_memory_utilization": memory}),
    }
    return spec.model_copy(update=values)


def resolved_reward(reward: RewardSpec) -> RewardSpec:
    """How a reward is run: those that compute little share one process."""
    is_slow = bool(reward.import_path) or reward.name == "code"
    return reward.model_copy(update={"workers": reward.workers or (4 if is_slow else 1)})


def _training_values(
    training: TrainingSpec, tuner: LoraSpec | FullSpec, resources: ResourcesSpec
) -> dict[str, float | bool | None]:
    return {
        "learning_rate": learning_rate(training, tuner),
        "warmup_ratio": warmup_ratio(training),
        "gradient_accumulation_steps": None,
        "gradient_checkpointing": gradient_checkpointing(training, resources),
    }


def learning_rate(training: TrainingSpec, tuner: LoraSpec | FullSpec) -> float:
    """The peak learning rate: adapters take larger steps than whole models."""
    if training.learning_rate is not None:
        return training.learning_rate
    return 1e-4 if isinstance(tuner, LoraSpec) else 1e-5


def warmup_ratio(training: TrainingSpec) -> float | None:
    """The share of steps to warm up for; None where the spec gives a number of steps."""
    if training.warmup_ratio is not None or training.warmup_steps is not None:
        return training.warmup_ratio
    return 0.05


def global_batch_size(training: TrainingSpec, resources: ResourcesSpec) -> int:
    """Rows in one optimiser step over all workers."""
    if training.global_batch_size:
        return training.global_batch_size
    pass_rows = training.per_device_train_batch_size * resources.workers
    passes = training.gradient_accumulation_steps or -(-LEAST_GLOBAL_BATCH // pass_rows)
    return passes * pass_rows


def completions_per_step(spec: GrpoSpec) -> int:
    """Completions in one optimiser step over all workers."""
    training = spec.training
    if training.global_batch_size or training.gradient_accumulation_steps:
        return global_batch_size(training, spec.resources)
    return -(-LEAST_GLOBAL_BATCH // spec.least_batch) * spec.least_batch


def accumulation_steps(training: TrainingSpec, resources: ResourcesSpec) -> int:
    """Passes of each worker before one optimiser step."""
    pass_rows = training.per_device_train_batch_size * resources.workers
    return global_batch_size(training, resources) // pass_rows


def gradient_checkpointing(training: TrainingSpec, resources: ResourcesSpec) -> bool:
    """Whether activations are recomputed: worth it where memory is dear."""
    if training.gradient_checkpointing is not None:
        return training.gradient_checkpointing
    return resources.gpus_per_worker > 0


def resolved_rollout(spec: GrpoSpec) -> RolloutSpec:
    """How engines are made; the cluster still decides on their CPU cores."""
    given = spec.rollout
    gpus = given.gpus_per_actor
    if gpus is None:
        gpus = given.tensor_parallel_size if spec.resources.gpus_per_worker else 0
    dtype = given.torch_dtype or spec.training.torch_dtype
    is_exact = dtype == spec.training.torch_dtype == "float32"
    engine = given.engine
    if engine == "auto":
        engine = "async" if gpus else "inprocess"
    values = {
        "gpus_per_actor": gpus,
        "engine": engine,
        "torch_dtype": dtype,
        "gpu_memory_utilization": given.gpu_memory_utilization or (0.45 if given.colocate else 0.9),
        "max_model_len": given.max_model_len or longest_sequence(spec),
        "canary_tolerance": given.canary_tolerance or (1e-3 if is_exact else 0.2),
    }
    return given.model_copy(update=values)


def longest_sequence(spec: GrpoSpec) -> int:
    """Tokens of the longest prompt and all that can follow it. An environment replies between
    turns, so once less than the model speaks."""
    turns = spec.environment.max_turns if spec.environment else 1
    return (
        spec.dataset.max_length
        + spec.rollout.max_completion_length * turns
        + REPLY_TOKENS * (turns - 1)
    )

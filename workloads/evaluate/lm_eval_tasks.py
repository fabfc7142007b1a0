"""Tasks of the library lm-eval, asked by its own models in a process of their own.

What tasks are, how they are asked and how they are scored is lm-eval's alone. On GPUs it asks vLLM;
on CPUs transformers, since it looks for vLLM by the name of the distribution for GPUs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.errors import RaysmithError
from jobs.spec.evaluation import EvaluateSpec, LmEvalSpec
from storage.durable import write_atomic
from workloads.context import StageContext
from workloads.engine import EngineSettings, engine_arguments, environment
from workloads.evaluate.metrics import Measured
from workloads.evaluate.tasks import Tasks, find_tasks
from workloads.failures import root
from workloads.generate.stage import AskedModel, engine_settings
from workloads.process_log import print_to

_OF_ENGINE = ("model", "logprobs_mode", "disable_log_stats", "enable_lora", "max_loras")
"""Arguments that lm-eval gives vLLM itself, or that are ours alone."""
_BATCH = 8
"""Texts that transformers looks at together on CPUs."""


def measure_tasks(
    context: StageContext, spec: EvaluateSpec, name: str, model: AskedModel
) -> Measured:
    """What a model comes to in all tasks, as `TASK.METRIC`. What was measured is kept.

    Raises:
        RaysmithError: if lm-eval fails, such as for a task that it does not know.
    """
    assert spec.lm_eval
    kept = context.layout.model(name).folder / "lm_eval.json"
    if not kept.is_file():
        found = _measured(context, spec, spec.lm_eval, model)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, json.dumps(found, default=str).encode())
    results: dict[str, dict[str, Any]] = json.loads(kept.read_bytes())
    values = {
        f"{task}.{_metric(key)}": float(value)
        for task, metrics in results.items()
        for key, value in metrics.items()
        if isinstance(value, int | float) and "_stderr" not in key and "," in key
    }
    return Measured(values, {"lm_eval": results})


def _metric(key: str) -> str:
    """`acc,none` as `acc`; what a filter picked out, as `exact_match.strict-match`."""
    metric, _, picked = key.partition(",")
    return metric if picked in ("", "none") else f"{metric}.{picked}"


def _measured(
    context: StageContext, spec: EvaluateSpec, wanted: LmEvalSpec, model: AskedModel
) -> dict[str, Any]:
    import ray
    from ray.exceptions import RayError

    settings = engine_settings(context, model, spec.engine, wanted.max_model_len)
    tasks = find_tasks(wanted.tasks, context.base_folders)
    log = context.attempt.folder / f"lm_eval_{context.owner.attempt}.log"
    options = ray.remote(_evaluate).options(
        num_cpus=settings.threads,
        num_gpus=spec.engine.gpus,
        max_retries=0,
        runtime_env={"env_vars": environment(settings)},
    )
    try:
        found: dict[str, Any] = ray.get(
            options.remote(settings, model, tasks, wanted, context.seed, log)
        )
    except RayError as error:
        cause = root(error)
        raise RaysmithError(
            f"lm-eval failed: {type(cause).__name__}: {cause}", f"see {log}"
        ) from error
    return found


def _evaluate(
    settings: EngineSettings, model: AskedModel, tasks: Tasks, wanted: LmEvalSpec, seed: int,
    log: Path,
) -> dict[str, Any]:  # fmt: skip
    print_to(log)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=_on_gpu(settings, model) if settings.on_gpu else _on_cpu(settings, model),
        tasks=list(tasks.names),
        num_fewshot=wanted.num_fewshot,
        limit=wanted.limit,
        apply_chat_template=wanted.apply_chat_template,
        task_manager=TaskManager(include_path=list(tasks.folders) or None),
        bootstrap_iters=0,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    assert found, "only other ranks than the first get nothing"
    results: dict[str, Any] = found["results"]
    return results


def _on_gpu(settings: EngineSettings, model: AskedModel) -> Any:
    from lm_eval.models.vllm_causallms import VLLM

    arguments = engine_arguments(settings)
    for name in _OF_ENGINE:
        arguments.pop(name, None)
    adapter = {"lora_local_path": model.adapter} if model.adapter else {}
    return VLLM(pretrained=model.folder, tokenizer=model.tokenizer, **arguments, **adapter)


def _on_cpu(settings: EngineSettings, model: AskedModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model.folder,
        tokenizer=model.tokenizer,
        peft=model.adapter,
        dtype=settings.dtype,
        max_length=settings.max_model_len,
        device="cpu",
        batch_size=_BATCH,
    )

"""What to tell somebody who wrote an unknown key: the nearest name, or the right place."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from jobs.load.spec_types import annotation_at, fields_below, sections
from jobs.load.tree import KeyPath, Value, child, dotted, value_at
from jobs.spec import JobSpec
from jobs.spec.fields import Spec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec

ELSEWHERE = {
    "adapter_name_or_path": "model",
    "adv_estimator": "algorithm.advantage_estimator",
    "async_generate": "rollout.max_staleness",
    "base_model": "model",
    "batch_size": "training.per_device_train_batch_size",
    "beta1": "training.adam_beta1",
    "beta2": "training.adam_beta2",
    "bf16": "training.torch_dtype",
    "clip_range": "algorithm.epsilon",
    "clip_ratio": "algorithm.epsilon",
    "clip_ratio_high": "algorithm.epsilon_high",
    "clip_ratio_low": "algorithm.epsilon",
    "cliprange": "algorithm.epsilon",
    "cutoff_len": "dataset.max_length",
    "data": "dataset",
    "dataset_path": "dataset.train",
    "direction": "mode",
    "ds_config": "training.deepspeed",
    "dtype": "training.torch_dtype",
    "dynamic_sampling": "algorithm.dynamic_sample",
    "epochs": "training.num_train_epochs",
    "eval_dataset": "dataset.validation",
    "evaluation_steps": "training.eval_steps",
    "export_hub_model_id": "push.to",
    "export_size": "max_shard_size",
    "filter_groups": "algorithm.dynamic_sample",
    "finetuning_type": "tuner.type",
    "fp16": "training.torch_dtype",
    "gpus": "resources.gpus_per_worker",
    "grad_accum": "training.gradient_accumulation_steps",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
    "group_size": "rollout.num_generations",
    "gym_env": "environment",
    "hf_token": "hub_token",
    "hub_model_id": "push.to",
    "hub_private_repo": "push.private",
    "init_kl_coef": "algorithm.beta",
    "kl_coef": "algorithm.beta",
    "kl_loss_coef": "algorithm.beta",
    "lora_alpha": "tuner.alpha",
    "lora_dropout": "tuner.dropout",
    "lora_r": "tuner.rank",
    "lora_rank": "tuner.rank",
    "lora_target": "tuner.target_modules",
    "lora_target_modules": "tuner.target_modules",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.lr_scheduler_type",
    "max_concurrent": "max_concurrent_trials",
    "max_new_tokens": "rollout.max_completion_length",
    "max_prompt_length": "dataset.max_length",
    "max_response_length": "rollout.max_completion_length",
    "max_seq_len": "dataset.max_length",
    "max_seq_length": "dataset.max_length",
    "micro_batch_size": "training.per_device_train_batch_size",
    "model_id": "model",
    "model_name_or_path": "model",
    "multi_turn_scheduler": "environment",
    "n_best_to_keep": "keep.best",
    "n_samples_per_prompt": "rollout.num_generations",
    "n_trials": "num_samples",
    "nproc_per_node": "resources.workers",
    "num_engines": "rollout.actors",
    "num_epochs": "training.num_train_epochs",
    "num_gpus": "resources.workers",
    "num_return_sequences": "rollout.num_generations",
    "num_trials": "num_samples",
    "num_workers": "resources.workers",
    "overlong_filter": "algorithm.mask_truncated_completions",
    "param_space": "search_space",
    "precision": "training.torch_dtype",
    "prompt_dataset": "dataset.train",
    "pruner": "scheduler",
    "push_to_hub": "push.to",
    "quant_method": "quantize.method",
    "r": "tuner.rank",
    "response_length": "rollout.max_completion_length",
    "reward_funcs": "rewards",
    "reward_functions": "rewards",
    "sampler": "search",
    "save_interval": "checkpoint.save_steps",
    "scheduler": "training.lr_scheduler_type",
    "search_alg": "search",
    "split_dataset_ratio": "dataset.validation",
    "stage": "kind",
    "system_prompt": "dataset.system",
    "task": "kind",
    "template": "dataset.chat_template",
    "tensor_model_parallel_size": "rollout.tensor_parallel_size",
    "test_size": "dataset.validation",
    "time_budget_s": "budget.time_s",
    "to_ollama": "ollama",
    "train_batch_size": "training.global_batch_size",
    "train_dataset": "dataset.train",
    "train_file": "dataset.train",
    "train_type": "tuner.type",
    "tuner_type": "tuner.type",
    "use_bf16": "training.torch_dtype",
    "val_dataset": "dataset.validation",
    "val_size": "dataset.validation",
    "validation_file": "dataset.validation",
    "vllm_enable_lora": "rollout.weight_sync",
    "vllm_enforce_eager": "rollout.enforce_eager",
    "vllm_gpu_memory_utilization": "rollout.gpu_memory_utilization",
    "vllm_gpu_util": "rollout.gpu_memory_utilization",
    "vllm_importance_sampling_cap": "algorithm.rollout_importance_sampling_threshold",
    "vllm_importance_sampling_mode": "algorithm.rollout_importance_sampling_mode",
    "vllm_max_model_len": "rollout.max_model_len",
    "vllm_max_num_seqs": "rollout.max_num_seqs",
    "vllm_maxlen": "rollout.max_model_len",
    "vllm_mode": "rollout.colocate",
    "vllm_num_engines": "rollout.actors",
    "vllm_tensor_parallel_size": "rollout.tensor_parallel_size",
    "world_size": "resources.workers",
    "zero_stage": "training.deepspeed",
}
"""Names that other trainers have for what a stage calls by the path on the right."""

RENAMED_IN = {
    "sample": {
        "n_samples_per_prompt": "n",
        "num_generations": "n",
        "num_return_sequences": "n",
    },
}
"""The same, where a kind of stage calls it by another path."""

ADVICE = {
    "attn_impl": "remove it: the model's own attention is used",
    "cosine_max_len": "write it under the reward's `params`",
    "cosine_max_len_value_correct": "write it under the reward's `params`",
    "cosine_max_len_value_wrong": "write it under the reward's `params`",
    "cosine_min_len_value_correct": "write it under the reward's `params`",
    "cosine_min_len_value_wrong": "write it under the reward's `params`",
    "custom_dataset_info": "write the paths of the files under `dataset.train`",
    "dataloader_num_workers": "remove it: rows are read by the cluster's free cores",
    "dataset_dir": "remove it: relative paths are looked up beside the spec; write them in full",
    "dataset_num_proc": "remove it: rows are read by the cluster's free cores",
    "ddp_timeout": "remove it",
    "do_eval": "remove it: `dataset.validation` turns evaluation on",
    "do_train": "remove it: a stage of `kind: sft` trains",
    "ds3_gather_for_generation": "remove it: weights are always gathered for the engines",
    "eval_strategy": "remove it: `training.eval_steps` says when to evaluate",
    "evaluation_strategy": "remove it: `training.eval_steps` says when to evaluate",
    "external_plugins": "write {import_path: module:function} under `rewards`",
    "flash_attn": "remove it: the model's own attention is used",
    "generation_batch_size": "remove it: it is global_batch_size x algorithm.steps_per_generation",
    "lazy_tokenize": "remove it: rows are tokenized once, before training",
    "load_in_4bit": "remove it: quantized training is not supported",
    "load_in_8bit": "remove it: quantized training is not supported",
    "logging_dir": "use the --storage option: logs lie in the run's folder",
    "loss_scale": "remove it: the assistant's turns are learned, and nothing else",
    "mask_history": "remove it: every turn of the assistant is learned",
    "max_samples": "write the number after the path of a dataset: `path#500`",
    "merge_lora": "add a stage of `kind: merge`",
    "min_p": "remove it: completions are sampled from the model's whole distribution",
    "neat_packing": "remove it: packing is not supported",
    "num_generations_eval": "remove it: the reward of every step is measured",
    "offload_model": "remove it: colocated engines always sleep while weights are trained",
    "offload_optimizer": "remove it: colocated engines always sleep while weights are trained",
    "optim": "remove it: the optimiser is AdamW",
    "output_dir": "use the --storage option: the spec does not say where its results lie",
    "overwrite_cache": "remove it: what is cached is known by its content",
    "overwrite_output_dir": "remove it: each run has a folder of its own",
    "packing": "remove it: packing is not supported",
    "padding_free": "remove it: packing is not supported",
    "plot_loss": "remove it: the curves are always drawn, into the run's images folder",
    "preprocessing_num_workers": "remove it: rows are read by the cluster's free cores",
    "quantization_bit": "remove it: quantized training is not supported",
    "ref_model": "remove it: the reference is the model that the stage starts from",
    "repetition_max_penalty": "write it under the reward's `params`",
    "repetition_n_grams": "write it under the reward's `params`",
    "repetition_penalty": "remove it: completions are sampled from the model's whole distribution",
    "report_to": "remove it: TensorBoard files are always written, into the run's folder",
    "resume_from_checkpoint": "remove it: a run goes on from its newest checkpoint by itself",
    "reward_model": "write {model: …} under `rewards`",
    "reward_models": "write {model: …} under `rewards`",
    "reward_weights": "write `weight` beside each reward's name",
    "rlhf_type": "remove it: `kind` says how a stage trains",
    "save_only_model": "remove it: checkpoints hold all that a run needs to go on",
    "save_strategy": "remove it: `checkpoint.save_steps` says when to save",
    "sleep_level": "remove it: colocated engines always sleep while weights are trained",
    "soft_cache_length": "write it under the reward's `params`",
    "soft_max_length": "write it under the reward's `params`",
    "storage": "use the --storage option: the spec does not say where its results lie",
    "streaming": "remove it: rows are always streamed from the disk",
    "top_k": "remove it: completions are sampled from the model's whole distribution",
    "top_p": "remove it: completions are sampled from the model's whole distribution",
    "train_on_prompt": "remove it: the assistant's turns are learned, and nothing else",
    "trust_remote_code": "remove it: code from model repositories is never run",
    "use_hf": "remove it: models come from folders or the Hugging Face hub",
    "use_vllm": "remove it: completions are always written by vLLM",
    "vllm_enable_sleep_mode": "remove it: colocated engines always sleep while weights are trained",
    "vllm_server_base_url": "remove it: the stage starts its engines, `rollout.actors` of them",
    "vllm_server_host": "remove it: the stage starts its engines, `rollout.actors` of them",
    "vllm_server_port": "remove it: the stage starts its engines, `rollout.actors` of them",
    "vllm_server_timeout": "remove it: the stage starts its engines, `rollout.actors` of them",
}
"""Names that other trainers have for what is said in another way here."""

_NEAR = 0.7
_ALL_BUT_EQUAL = 0.9


def unknown_key(tree: Value, path: KeyPath, root: Any = None) -> tuple[str, str]:
    """The message and remedy for a key that the section around it does not have.

    `root` is the spec class that the tree is of; a job file when None.
    """
    if root in (None, JobSpec):
        return f"unknown key '{path[-1]}'", _remedy(tree, path)
    valid = [
        name
        for section in sections(annotation_at(tree, path[:-1], root), value_at(tree, path[:-1]))
        for name in section.model_fields
    ]
    return f"unknown key '{path[-1]}'", nearest(str(path[-1]), valid) if valid else "remove it"


def nearest(word: str, choices: list[str]) -> str:
    """`did you mean 'x'?` where one choice is near, else all of them."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(choices)}"


def _remedy(tree: Value, path: KeyPath) -> str:
    key, holder = str(path[-1]), path[:-1]
    stage, section = _stage_around(tree, holder)
    valid = [
        name
        for section in sections(annotation_at(tree, holder), value_at(tree, holder))
        for name in section.model_fields
    ]
    in_list = any(isinstance(part, int) for part in holder)
    if holder and not in_list and key in JobSpec.model_fields:
        return f"{key} belongs at the top of the file"
    if holder[-2:-1] == ("search_space",):
        return nearest(key, valid)
    known = _known_fields(tree, holder)
    if places := [place for place, name in known if name == key]:
        return f"{key} belongs in {places[0]}"
    if holder == (*stage[:2], "trial") and key in SweepSpec.model_fields:
        return f"{key} belongs in {dotted(stage[:2])}"
    if near := difflib.get_close_matches(key, valid, n=1, cutoff=_ALL_BUT_EQUAL):
        return f"did you mean '{near[0]}'?"
    elsewhere = ELSEWHERE | RENAMED_IN.get(_kind(section), {})
    is_renamed = elsewhere.get(key, "").split(".")[0] in section.model_fields
    if (kinds := _kinds_with(key)) and key not in ADVICE and not is_renamed:
        return f"{key} is for stages of kind {' or '.join(kinds)}"
    near = difflib.get_close_matches(key, valid, n=1, cutoff=_NEAR)
    if near and key not in elsewhere and key not in ADVICE:
        return f"did you mean '{near[0]}'?"
    if key in ADVICE:
        return ADVICE[key]
    if key in elsewhere:
        return _renamed(tree, holder, elsewhere[key])
    if near := difflib.get_close_matches(key, valid, n=1):
        return f"did you mean '{near[0]}'?"
    if near := difflib.get_close_matches(key, [name for _, name in known], n=1, cutoff=0.8):
        place = next(place for place, name in known if name == near[0])
        return f"did you mean '{near[0]}' in {place}?"
    return f"the keys here are {', '.join(valid)}" if valid else "remove it"


def _known_fields(tree: Value, holder: KeyPath) -> list[tuple[str, str]]:
    """Every field of the stage around a place, as (its section, its name)."""
    stage, section = _stage_around(tree, holder)
    return [
        (dotted((*stage, *path)), name)
        for path, name in fields_below(section, value=value_at(tree, stage))
        if (*stage, *path) != holder
    ]


def _kinds_with(key: str) -> list[str]:
    """The kinds of stage that have a field of this name somewhere."""
    return [
        _kind(section)
        for section in sections(annotation_at({}, ("stages", "<name>")))
        if key in {name for path, name in fields_below(section) if path[:1] != ("trial",)}
    ]


def _kind(section: type[Spec]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _stage_around(tree: Value, holder: KeyPath) -> tuple[KeyPath, type[Spec]]:
    """The stage or trial that a place lies in; for the top of the file, the first stage."""
    stages = child(tree, "stages")
    name = holder[1] if len(holder) > 1 else next(iter(stages), "<name>") if stages else "<name>"
    where: KeyPath = ("stages", name, *(part for part in holder[2:3] if part == "trial"))
    found = sections(annotation_at(tree, where), value_at(tree, where))
    return where, found[0] if found else SftSpec


def _renamed(tree: Value, holder: KeyPath, path: str) -> str:
    stage, section = _stage_around(tree, holder)
    if path.split(".")[0] not in section.model_fields:
        return "remove it: stages of this kind have nothing like it"
    full = (*stage, *path.split("."))
    if full[:-1] == holder:
        return f"it is called '{full[-1]}' here"
    return f"it is called '{full[-1]}' here, and belongs in {dotted(full[:-1])}"

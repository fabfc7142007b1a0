"""What a replica's engine is told."""

from pathlib import Path
from typing import Any

import pytest

from jobs.plan.derive import resolved_serve
from jobs.spec.serve import ServeSpec
from workloads.serve.settings import Release, ReplicaSettings, environment, vllm_arguments
from workloads.serve.tool_calls import parser_for

CPU = ReplicaSettings(threads=3, cpus=1, gpus=0, seed=7)


def spec(**fields: Any) -> ServeSpec:
    return resolved_serve(ServeSpec(kind="serve", model="m", **fields), "bot")


def release(**fields: Any) -> Release:
    values: dict[str, Any]
    values = {"number": 1, "model": "/m", "name": "bot", "adapters": {}, "max_lora_rank": 0}
    return Release(**values | fields)


def told(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_a_model_is_served_by_the_jobs_name() -> None:
    arguments = vllm_arguments(spec(), CPU, release())
    assert told(arguments, "--model") == "/m"
    assert told(arguments, "--served-model-name") == "bot"
    assert "--enable-lora" not in arguments
    assert release().models == ("bot",)


def test_an_adapter_takes_the_models_name() -> None:
    adapted = release(adapters={"bot": "/a", "other": "/b"}, max_lora_rank=12)
    arguments = vllm_arguments(spec(), CPU, adapted)
    assert told(arguments, "--served-model-name") not in adapted.models
    assert arguments[arguments.index("--lora-modules") + 1 :] == ["bot=/a", "other=/b"]
    assert told(arguments, "--max-lora-rank") == "16"
    assert adapted.models == ("bot", "other")


def test_limits_reach_the_engine() -> None:
    limited = spec(limits={"max_tokens": 9}, engine={"max_num_seqs": 5, "max_model_len": 77})
    arguments = vllm_arguments(limited, CPU, release())
    assert told(arguments, "--override-generation-config") == '{"max_new_tokens": 9}'
    assert told(arguments, "--max-model-len") == "77"
    assert limited.limits.max_ongoing_requests == 10
    assert limited.replicas.target_ongoing_requests == 5


def test_threads_are_set_on_cpus_alone() -> None:
    assert environment(spec(), CPU)["OMP_NUM_THREADS"] == "3"
    assert environment(spec(), CPU)["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    gpu = ReplicaSettings(threads=3, cpus=1, gpus=1, seed=7)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment(spec(gpus_per_replica=1), gpu)
    assert "OMP_NUM_THREADS" not in environment(spec(gpus_per_replica=1), gpu)
    assert "--enforce-eager" not in vllm_arguments(spec(gpus_per_replica=1), gpu, release())


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("{{ '<tool_call>' }}", "hermes"), ("plain", "hermes"), ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3_json"), ("<tool_call><function=", "qwen3_coder"),
    ],
)  # fmt: skip
def test_a_template_tells_how_tools_are_called(tmp_path: Path, template: str, parser: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    assert parser_for(tmp_path) == parser

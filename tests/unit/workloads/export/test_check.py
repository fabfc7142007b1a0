"""What is wrong with an export stage is found before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.resolve import resolve
from workloads.check import check


def problems(folder: Path, stage: str, config: dict[str, object] | None = None) -> list[str]:
    """What loading and checking a job with one export stage says, each in a line."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    content = {"architectures": ["LlamaForCausalLM"], **(config or {})}
    (model / "config.json").write_text(json.dumps(content))
    (model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    spec = folder / "job.yaml"
    spec.write_text(
        "version: 1\nname: job\nstages:\n"
        f"  export: {{kind: export, model: ./model{', ' if stage else ''}{stage}}}\n"
    )
    try:
        loaded = load(spec, (), {})
        check(loaded, resolve(loaded, "./runs"))
    except SpecError as error:
        return [f"{p.path}: {p.message}" for p in error.problems]
    return []


@pytest.mark.parametrize(
    "stage",
    ["", "quantize: {method: int8}, gguf: {outtype: q4_0}", "ollama: {}", "push: {to: s3://a-b/c}"],
)
def test_what_can_be_made_is_fine(tmp_path: Path, stage: str) -> None:
    assert problems(tmp_path, stage) == []


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        ("push: {to: ftp://a/b}", "push.to: 'ftp://a/b' is no place to push to"),
        ("push: {to: s3://a-b/../c}", "push.to: 's3://a-b/../c' is no place to push to"),
        ("push: {to: hf://name}", "push.to: 'hf://name' is no place to push to"),
        ("push: {to: s3://a-b, revision: x}", "push.revision: revision: S3 has no such thing"),
        ("push: {to: s3://a-b, token: abc}", "push.token: "),
        ("push: {to: hf://org/name}", "push.to: HF_HUB_OFFLINE is set"),
        ("quantize: {method: int3}", "quantize.method: "),
        ("quantize: {method: awq}", "quantize.method: awq is made by libraries that can't be"),
        ("gguf: {outtype: q4_k_m}", "gguf.outtype: "),
        ("max_shard_size: 5", "max_shard_size: "),
    ],
)
def test_what_can_not_work_is_told(
    tmp_path: Path, stage: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = problems(tmp_path, stage)
    assert any(line.startswith(f"stages.export.{problem}") for line in found), found


def test_the_model_must_fit_its_form(tmp_path: Path) -> None:
    other: dict[str, object] = {"architectures": ["MambaForCausalLM"]}
    assert problems(tmp_path, "", other) == []
    (found,) = problems(tmp_path, "gguf: {}", other)
    assert found == "stages.export.model: a MambaForCausalLM can't be written as GGUF"
    (found,) = problems(tmp_path, "", {"quantization_config": {}})
    assert found.endswith("is quantized already")


def test_what_is_not_installed_is_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workloads.export.check.find_spec", lambda name: None)
    (found,) = problems(tmp_path, "push: {to: ms://org/name}")
    assert found.endswith("'ms' needs the package modelscope_hub, which is not installed")
    (found,) = problems(tmp_path, "quantize: {method: bnb}")
    assert found.endswith("'bnb' needs the package bitsandbytes, which is not installed")

"""The folder of an exported model: every form that was asked for, made of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.errors import RaysmithError
from jobs.spec.export import ExportSpec
from workloads.export.make import make
from workloads.export.report import Fidelity, Report
from workloads.export.task import ExportTask
from workloads.models.resolve import ModelSource

pytestmark = [
    # Raised inside the libraries.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model that changes what it says."""
    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    adapted.save_pretrained(folder)
    return folder


def exported(folder: Path, model: Path, adapter: Path | None, **fields: Any) -> tuple[Path, Report]:
    """The folder that an export leaves, and its report."""
    target, scratch = folder / "target", folder / "scratch"
    target.mkdir()
    scratch.mkdir()
    task = ExportTask(
        name="job",
        base=ModelSource("folder", str(model)),
        adapter=str(adapter) if adapter else None,
        spec=ExportSpec.model_validate({"kind": "export", "model": "m", **fields}),
        target=str(target),
        scratch=str(scratch),
        progress_json=str(folder / "progress.json"),
    )
    make(task)
    return target, Report.model_validate_json((target / "export.json").read_bytes())


def logits(folder: Path, **options: Any) -> torch.Tensor:
    """What a model makes of some tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None]).logits


def test_an_adapter_is_merged_on_the_way(tmp_path: Path, tiny_model: Path, adapter: Path) -> None:
    from peft import PeftModel

    target, report = exported(tmp_path, tiny_model, adapter, torch_dtype="float32")
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    parameters = base.num_parameters()
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        expected = adapted(input_ids=torch.arange(20)[None]).logits
    assert not torch.allclose(logits(tiny_model), expected, atol=1e-2)
    assert torch.allclose(logits(target), expected, atol=1e-4)
    assert report.torch_dtype == "float32"
    assert report.weights_bytes == report.full_bytes
    assert report.parameters == parameters
    assert AutoTokenizer.from_pretrained(target).chat_template


def test_all_forms_lie_beside_one_another(tmp_path: Path, tiny_model: Path, adapter: Path) -> None:
    target, report = exported(
        tmp_path,
        tiny_model,
        adapter,
        quantize={"method": "int8"},
        ollama={},
        torch_dtype="bfloat16",
    )
    names = {path.name for path in target.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "model.gguf",
        "Modelfile",
    } <= names
    config = json.loads((target / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert report.quantize_method == "int8"
    assert report.ratio < 1
    assert report.fidelity
    assert report.fidelity.top1_agreement > 0.8
    assert report.gguf_bytes == (target / "model.gguf").stat().st_size
    assert report.modelfile
    assert torch.isfinite(logits(target)).all()


def test_large_weights_are_split(tmp_path: Path, tiny_model: Path) -> None:
    target, report = exported(tmp_path, tiny_model, None, max_shard_size="300KB", gguf={})
    assert len(list(target.glob("*.safetensors"))) > 1
    assert report.gguf_type == "q8_0"
    assert torch.equal(logits(target), logits(tiny_model))


def test_a_model_that_lost_too_much_is_no_result(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = Fidelity(
        tokens=10,
        perplexity=12.0,
        full_perplexity=10.0,
        top1_agreement=0.5,
        mean_logit_difference=1.0,
        max_logit_difference=2.0,
    )
    monkeypatch.setattr("workloads.export.make.compare", lambda *_: worse)
    spec = {"method": "fp8", "max_perplexity_increase": 0.1}
    with pytest.raises(RaysmithError, match=r"by 20\.0%; max_perplexity_increase allows 10\.0%"):
        exported(tmp_path, tiny_model, None, quantize=spec)

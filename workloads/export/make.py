"""Makes the folder of an exported model: full weights first, then each form made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from jobs.errors import RaysmithError
from jobs.observed import Progress, timestamp, utc_now, write_progress
from jobs.spec.export import ExportSpec, GgufSpec, QuantizeSpec
from jobs.spec.fields import size_bytes
from workloads.export.fidelity import compare
from workloads.export.gguf_file import write_gguf
from workloads.export.ollama import modelfile
from workloads.export.quantize import quantize
from workloads.export.report import REPORT_FILE, Fidelity, Report
from workloads.export.task import ExportTask
from workloads.merge.fold import fold, tokenizer_folder
from workloads.models.local import localize

GGUF_FILE = "model.gguf"
MODELFILE = "Modelfile"


def make(task: ExportTask) -> None:
    """Writes weights, tokenizer, what else the spec asks for, and the report to the target.

    Raises:
        UserError: if the adapter does not fit, or the model has no such form.
        RaysmithError: if the quantized model lost more than the spec allows.
    """
    spec, target = task.spec, Path(task.target)
    full = Path(task.scratch, "full") if spec.quantize else target
    _tell(task, "loading the model")
    parameters = _save_full(task, full)
    config = AutoConfig.from_pretrained(full)
    values = {
        "architecture": config.architectures[0],
        "parameters": parameters,
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "full_bytes": _weights_bytes(full),
    }
    if spec.gguf_wanted:
        _tell(task, "writing the GGUF file")
        values |= _gguf(task, full, spec.gguf_wanted)
    if spec.quantize:
        _tell(task, f"quantizing: {spec.quantize.method}")
        quantize(full, target, spec.quantize, size_bytes(spec.max_shard_size))
        _copy_tokenizer(full, target)
        _tell(task, "comparing the quantized model with the full one")
        fidelity = compare(full, target)
        _check(fidelity, spec.quantize)
        values |= {"quantize_method": spec.quantize.method, "fidelity": fidelity}
    report = Report(**values, weights_bytes=_weights_bytes(target))
    (target / REPORT_FILE).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _save_full(task: ExportTask, target: Path) -> int:
    """Saves weights and tokenizer at the wanted precision; returns the number of parameters."""
    folder = localize(task.base, task.spec.hub_token)
    dtype = _dtype(task.spec, folder)
    if task.adapter:
        model = fold(folder, task.adapter).to(dtype)
        tokenizer = tokenizer_folder(folder, task.adapter)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        tokenizer = folder
    model.save_pretrained(target, max_shard_size=size_bytes(task.spec.max_shard_size))
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(target)
    return model.num_parameters()


def _dtype(spec: ExportSpec, folder: str) -> torch.dtype:
    if spec.torch_dtype:
        return getattr(torch, spec.torch_dtype)
    return AutoConfig.from_pretrained(folder).dtype or torch.float32


def _copy_tokenizer(full: Path, target: Path) -> None:
    AutoTokenizer.from_pretrained(full).save_pretrained(target)
    generation = full / "generation_config.json"
    if generation.is_file():
        shutil.copy(generation, target)


def _gguf(task: ExportTask, full: Path, wanted: GgufSpec) -> dict[str, str | int | bool]:
    target = Path(task.target)
    file = target / GGUF_FILE
    write_gguf(full, file, wanted.outtype, task.name)
    if task.spec.ollama:
        tokenizer = AutoTokenizer.from_pretrained(full)
        text = modelfile(task.spec.ollama, tokenizer, GGUF_FILE)
        (target / MODELFILE).write_text(text, encoding="utf-8")
    return {
        "gguf_file": GGUF_FILE,
        "gguf_type": wanted.outtype,
        "gguf_bytes": file.stat().st_size,
        "modelfile": bool(task.spec.ollama),
    }


def _check(found: Fidelity, spec: QuantizeSpec) -> None:
    bound = spec.max_perplexity_increase
    if bound is not None and not found.perplexity_increase <= bound:
        raise RaysmithError(
            f"{spec.method} raises perplexity from {found.full_perplexity:.3f} to "
            f"{found.perplexity:.3f}, by {found.perplexity_increase:.1%}; "
            f"max_perplexity_increase allows {bound:.1%}",
            "keep more layers in full precision (quantize.ignore), use another method, or allow "
            "more",
        )


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _tell(task: ExportTask, phase: str) -> None:
    write_progress(Path(task.progress_json), Progress(phase=phase, updated_at=timestamp(utc_now())))

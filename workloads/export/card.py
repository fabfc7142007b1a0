"""Writes a model card: a README.md for the hub, made of what the run's record knows.

It holds no secrets, since the record holds none, and no folders of the machine: of a path that
starts at the root or the home folder, only the last part is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from jobs.masking import masker
from jobs.spec.dataset import SourceSpec
from jobs.spec.export import ExportSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from workloads.export.lineage import Lineage, StageRecord
from workloads.export.report import Report, report_lines
from workloads.models.resolve import BUNDLED

_LOCAL_PATH = re.compile(r"(?<![\w:/.~])(?:~/|/)(?:[^\s/'\"{}\[\],#]+/)*([^\s/'\"{}\[\],#]+)")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w-]*/[\w.-]+(@[\w./-]+)?$")
_TAGS = {"sft": "sft", "grpo": "grpo", "int8": "int8", "fp8": "fp8", "bnb": "bitsandbytes"}
_SHOWN = ("loss", "token_acc", "eval_loss", "eval_token_acc", "reward", "kl", "completion_length")


def model_card(spec: ExportSpec, lineage: Lineage, report: Report) -> str:
    """The card as Markdown, with the hub's YAML in front."""
    head = yaml.safe_dump(_front_matter(spec, lineage, report), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {lineage.job}",
        spec.card.description.strip() or _first_sentence(spec, lineage, report),
        _files(report),
        _use(report),
        _origin(lineage),
        _training(lineage),
        _evaluation(lineage),
        _reproduction(lineage),
    ]
    body = "\n\n".join(section for section in sections if section)
    return masker((), {})(f"---\n{head}---\n\n{body}\n")


def without_folders(text: str) -> str:
    """A text with the folders of this machine taken out of its paths."""
    return _LOCAL_PATH.sub(r"\1", text)


def _front_matter(spec: ExportSpec, lineage: Lineage, report: Report) -> dict[str, Any]:
    base, base_license = _base(spec, lineage)
    kinds = [record.plan.kind for record in lineage.stages]
    tags = ["raysmith", *(_TAGS[kind] for kind in kinds if kind in _TAGS)]
    if report.quantize_method:
        tags.append(_TAGS[report.quantize_method])
    if report.gguf_file:
        tags.append("gguf")
    found: dict[str, Any] = {}
    if license_id := spec.card.license or base_license:
        found["license"] = license_id
    if spec.card.language:
        found["language"] = list(spec.card.language)
    if base:
        found["base_model"] = base
        found["base_model_relation"] = "quantized" if report.quantize_method else "finetune"
    if datasets := [name for name in _datasets(lineage) if _HUB_ID.match(name)]:
        found["datasets"] = datasets
    found["library_name"] = "transformers"
    found["pipeline_tag"] = "text-generation"
    found["tags"] = list(dict.fromkeys([*tags, *spec.card.tags]))
    return found


def _base(spec: ExportSpec, lineage: Lineage) -> tuple[str | None, str | None]:
    """The hub's name of the model that all began with, and its license, where they are known."""
    name = lineage.first_model or spec.model
    if name in BUNDLED:
        return BUNDLED[name].hub_id, BUNDLED[name].license
    return (name.partition("@")[0], None) if _HUB_ID.match(name) else (None, None)


def _datasets(lineage: Lineage) -> Iterator[str]:
    for record in lineage.stages:
        dataset = getattr(record.plan.spec, "dataset", None)
        yield from (source.path for source in _sources(dataset))


def _sources(dataset: Any) -> tuple[SourceSpec, ...]:
    return getattr(dataset, "train_sources", ()) if dataset is not None else ()


def _first_sentence(spec: ExportSpec, lineage: Lineage, report: Report) -> str:
    start = _base(spec, lineage)[0] or without_folders(lineage.first_model or spec.model)
    done = [record.plan.kind for record in lineage.stages if record.plan.produces != "report"]
    steps = f" by {', then '.join(done)}" if done else ""
    return (
        f"A {report.architecture} of {report.parameters / 1e6:,.1f} million parameters, made from "
        f"{start}{steps} with raysmith."
    )


def _files(report: Report) -> str:
    lines = [f"- {line}" for line in report_lines(report)]
    return "\n".join(["## What is here", "", *lines])


def _use(report: Report) -> str:
    lines = [
        "## How to use it",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'chat = pipeline("text-generation", ".")',
        'answer = chat([{"role": "user", "content": "Who are you?"}], max_new_tokens=64)',
        'print(answer[0]["generated_text"][-1]["content"])',
        "```",
    ]
    if report.modelfile:
        lines += ["", "With Ollama: `ollama create NAME -f Modelfile`, then `ollama run NAME`."]
    elif report.gguf_file:
        lines += ["", f"With llama.cpp: `llama-cli -m {report.gguf_file}`."]
    return "\n".join(lines)


def _origin(lineage: Lineage) -> str:
    if not lineage.stages:
        return ""
    lines = [
        "## Where it comes from",
        "",
        "| stage | kind | started from | run |",
        "|---|---|---|---|",
    ]
    for record in lineage.stages:
        spec = record.plan.spec
        start = without_folders(getattr(spec, "model", "") or "")
        lines.append(f"| {record.plan.name} | {record.plan.kind} | {start} | {record.run_id} |")
    lines += _inputs(lineage)
    return "\n".join(lines)


def _inputs(lineage: Lineage) -> Iterator[str]:
    names = {record.plan.name for record in lineage.stages}
    rows = [
        (stage, field, digest)
        for stage, fields in lineage.digests.items()
        if stage in names
        for field, digest in fields.items()
    ]
    if rows:
        yield from ("", "| input of | field | digest |", "|---|---|---|")
        yield from (
            f"| {stage} | {field} | `{without_folders(digest)[:64]}` |"
            for stage, field, digest in rows
        )


def _training(lineage: Lineage) -> str:
    parts = [_trained(record) for record in lineage.stages]
    lines = [line for part in parts for line in part]
    return "\n".join(["## Training", *lines]) if lines else ""


def _trained(record: StageRecord) -> list[str]:
    spec = record.plan.spec
    if not isinstance(spec, SftSpec | GrpoSpec):
        return []
    training = spec.training
    sources = [_source(source) for source in _sources(spec.dataset)]
    facts = {
        "data": ", ".join(sources),
        "tuner": _tuner(spec.tuner),
        "steps": str(record.history[-1].get("global_step", "")) if record.history else "",
        "batch": f"{training.global_batch_size} rows",
        "learning rate": f"{training.learning_rate:g}, {training.lr_scheduler_type}",
        "precision": training.torch_dtype,
    }
    if isinstance(spec, GrpoSpec):
        facts["rewards"] = ", ".join(f"{r.weight:g} x {r.label}" for r in spec.rewards)
    facts |= {
        f"last {name}": f"{value:.4g}"
        for name in _SHOWN
        if (value := _last(record.history, name)) is not None
    }
    rows = [f"| {key} | {value} |" for key, value in facts.items() if value]
    return ["", f"### {record.plan.name} ({record.plan.kind})", "", "| | |", "|---|---|", *rows]


def _tuner(tuner: Any) -> str:
    if tuner.type == "full":
        return "all weights"
    return f"{tuner.type}, rank {tuner.rank}, alpha {tuner.alpha:g}"


def _source(source: SourceSpec) -> str:
    name = PurePosixPath(source.path).name if source.path.startswith(("/", "~")) else source.path
    return f"{name}#{source.sample}" if source.sample else name


def _last(history: tuple[Mapping[str, Any], ...], name: str) -> float | None:
    found = [record[name] for record in history if isinstance(record.get(name), int | float)]
    return found[-1] if found else None


def _evaluation(lineage: Lineage) -> str:
    lines = []
    for record in lineage.stages:
        if record.results:
            rows = [f"| {key} | {value:.4g} |" for key, value in _numbers(record.results)]
            lines += ["", f"### {record.plan.name}", "", "| metric | value |", "|---|---|", *rows]
    return "\n".join(["## Evaluation", *lines]) if lines else ""


def _numbers(results: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested results, by their path."""
    for key, value in results.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{key}", value


def _reproduction(lineage: Lineage) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in lineage.versions.items())
    revision = f", revision `{lineage.git_revision}`" if lineage.git_revision else ""
    spec = without_folders(lineage.spec_text.strip())
    return "\n".join(
        [
            "## How it was made",
            "",
            f"Run `{lineage.run_id}` of {lineage.created_at[:10]}, seed {lineage.seed}{revision}; "
            f"{versions}.",
            "",
            "`raysmith run spec.yaml` with this file:",
            "",
            "```yaml",
            spec,
            "```",
        ]
    )

"""Model cards: what the run's record says, and nothing of the machine or its secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from jobs.load.loader import load
from jobs.observed import StageStatus
from jobs.plan.resolve import Plan, resolve
from jobs.record import Record
from jobs.spec.export import ExportSpec
from jobs.state import StageState
from storage.commit import begin, commit
from storage.layout import Layout, RunLayout
from storage.manifest import Owner
from workloads.export.card import model_card, without_folders
from workloads.export.lineage import read_lineage
from workloads.export.report import Fidelity, Report

SECRET = "hf_" + "a1" * 20
SPEC = """\
version: 1
name: support-bot
stages:
  sft:
    kind: sft
    model: smollm2-135m-instruct
    dataset: {{train: [{folder}/secret-place/rows.jsonl, org/corpus]}}
    tuner: {{type: lora, rank: 4}}
    training: {{learning_rate: 1e-4}}
  export:
    kind: export
    model: ${{stages.sft.model}}
    quantize: {{method: int8}}
    ollama: {{}}
    card: {{language: [en], tags: [support], description: Answers customers.}}
    push: {{to: hf://org/support-bot, token: "${{secret:PUSH_TOKEN}}"}}
"""
REPORT = Report(
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
    torch_dtype="bfloat16",
    full_bytes=269_000_000,
    weights_bytes=163_000_000,
    quantize_method="int8",
    fidelity=Fidelity(
        tokens=300,
        perplexity=8.2,
        full_perplexity=8.0,
        top1_agreement=0.95,
        mean_logit_difference=0.1,
        max_logit_difference=2.0,
    ),
    gguf_file="model.gguf",
    gguf_type="q8_0",
    gguf_bytes=144_000_000,
    modelfile=True,
)


def recorded(folder: Path) -> tuple[RunLayout, Plan]:
    """A run whose training has ended, and whose export is at work."""
    file = folder / "job.yaml"
    file.write_text(SPEC.format(folder=folder))
    loaded = load(file, (), {})
    plan = resolve(loaded, str(folder))
    run = Layout(folder).run("support-bot", "20260101-000000-abc")
    record = Record.create(
        run,
        run_id="20260101-000000-abc",
        name=plan.name,
        plan_json=plan.to_json(),
        spec_text=loaded.text,
        lock={
            "git_revision": "0123abc",
            "versions": {"torch": "2.13.0", "flask": "1"},
            "inputs": {"sft": {"dataset.train[0]": "ab" * 32}},
        },
        stages=tuple(StageStatus(name=s.name, kind=s.kind) for s in plan.stages),
        digest="d" * 64,
    )
    owner = Owner("20260101-000000-abc", "sft", "key", 2)
    artifact = run.artifact("sft")
    begin(artifact, owner)
    (artifact / "adapter_config.json").write_text("{}")
    commit(artifact, owner, {"type": "adapter"})
    attempt = run.stage("sft").attempt(2)
    attempt.folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"loss": 3.0, "global_step": 1},
        {"eval_loss": 2.25, "global_step": 2},
        {"loss": 2.125, "token_acc": 0.5, "global_step": 2},
    ]
    attempt.logging_jsonl.write_text("".join(json.dumps(line) + "\n" for line in lines))
    record.move("sft", StageState.RUNNING, attempt=2)
    record.move("sft", StageState.SUCCEEDED, artifact=str(artifact))
    return run, plan


def test_a_card_is_made_of_the_record(tmp_path: Path) -> None:
    run, plan = recorded(tmp_path)
    spec = plan.stage("export").spec
    assert isinstance(spec, ExportSpec)
    lineage = read_lineage(run, "export")
    assert [record.plan.name for record in lineage.stages] == ["sft"]
    card = model_card(spec, lineage, REPORT)
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "apache-2.0",
        "language": ["en"],
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "quantized",
        "datasets": ["org/corpus"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["raysmith", "sft", "int8", "gguf", "support"],
    }
    for text in (
        "# support-bot",
        "Answers customers.",
        "| last loss | 2.125 |",
        "| last eval_loss | 2.25 |",
        "| steps | 2 |",
        "| tuner | lora, rank 4, alpha 32 |",
        "rows.jsonl",
        "ab" * 32,
        "20260101-000000-abc",
        "revision `0123abc`",
        "torch 2.13.0",
        "61% of bfloat16's 269.0 MB",
        "perplexity 8.200 against 8.000 before (+2.5%)",
        "ollama create",
        "learning_rate: 1e-4",
    ):
        assert text in body, text
    assert "flask" not in card


def test_a_card_names_no_folder_and_no_secret(tmp_path: Path) -> None:
    run, plan = recorded(tmp_path)
    spec = plan.stage("export").spec
    assert isinstance(spec, ExportSpec)
    talks = spec.model_copy(
        update={"card": spec.card.model_copy(update={"description": f"token {SECRET}"})}
    )
    card = model_card(talks, read_lineage(run, "export"), REPORT)
    assert str(tmp_path) not in card
    assert "secret-place" not in card
    assert SECRET not in card
    assert "${secret:PUSH_TOKEN}" in card


def test_paths_lose_their_folders() -> None:
    assert without_folders("train: [/a/b/rows.jsonl, ./own/rows.jsonl]") == (
        "train: [rows.jsonl, ./own/rows.jsonl]"
    )
    assert without_folders("{path: ~/x/y.csv, to: s3://b/c, id: org/name}") == (
        "{path: y.csv, to: s3://b/c, id: org/name}"
    )


def test_evaluations_of_the_model_are_told(tmp_path: Path) -> None:
    run, plan = recorded(tmp_path)
    spec = plan.stage("export").spec
    assert isinstance(spec, ExportSpec)
    lineage = read_lineage(run, "export")
    (record,) = lineage.stages
    results = {"model": {"accuracy": 0.625, "name": "x", "passed": True}}
    told = type(record)(record.plan, record.run_id, 1, (), results)
    changed = type(lineage)(**vars(lineage) | {"stages": (told,)})
    assert "| model.accuracy | 0.625 |" in model_card(spec, changed, REPORT)

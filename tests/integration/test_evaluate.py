"""`raysmith run` with an evaluation on the real thing: two models, a kill, a gate, lm-eval."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from sklearn.metrics import confusion_matrix, f1_score

from storage.layout import Layout, RunLayout

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "jobs.cli"]
ROWS, CHUNKS, LABELS = 70, 3, ("good", "bad")
GATE = 'gate: {loss: "< 100", f1: ">= 0.99", tuned.runtime: "> 0"}'

TASK = """\
task: opinions
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: [good, bad]
doc_to_target: response
metric_list: [{metric: acc}]
"""


@pytest.fixture(scope="module")
def models(asked_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that vLLM takes, and an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("evaluated")
    model = AutoModelForCausalLM.from_pretrained(asked_model, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(model, config).save_pretrained(folder / "tuned")
    return {"base": asked_model, "tuned": folder / "tuned"}


@pytest.fixture(scope="module")
def spec(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate-job")
    rows = [{"query": f"Is {n} good?", "response": LABELS[n % 3 == 0]} for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "task.yaml").write_text(TASK.replace("ROWS", str(folder / "rows.jsonl")))
    job = folder / "job.yaml"
    job.write_text(f"""
version: 1
name: tiny
stages:
  check:
    kind: evaluate
    models: {{base: {models["base"]}, tuned: {models["tuned"]}}}
    dataset: {{test: [./rows.jsonl], max_length: 128}}
    metrics: [loss, exact_match, accuracy, bleu, rouge, classification]
    labels: [good, bad]
    generation: {{max_new_tokens: 24}}
    engine: {{kv_cache: 64MB, max_num_seqs: 8, cpus_per_actor: 1}}
    {GATE}
  after: {{kind: merge, model: {models["tuned"]}, after: [check]}}
""")
    return job


def start(spec: Path, storage: Path, *options: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "run", str(spec), "--storage", str(storage), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], code: int) -> str:
    output, errors = process.communicate(timeout=500)
    assert process.returncode == code, output + errors
    assert "Warning" not in errors
    return output


def the_run(storage: Path) -> RunLayout:
    layout = Layout(storage)
    (run_id,) = layout.runs("tiny")
    return layout.run("tiny", run_id)


def chunks_of(storage: Path) -> dict[Path, int]:
    found = storage.glob("tiny/*/stages/check/models/*/answers/chunk-*.jsonl")
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def refused(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The storage of a run that was killed in the middle, and then failed its gate."""
    storage = tmp_path_factory.mktemp("refused")
    process = start(spec, storage)
    deadline = time.monotonic() + 300
    while not chunks_of(storage):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = chunks_of(storage)
    assert len(before) < 2 * CHUNKS
    output = finish(start(spec, storage), 1)
    assert before.items() <= chunks_of(storage).items()
    return storage, output


def test_a_gate_that_is_not_met_fails_the_stage_and_skips_the_next(
    refused: tuple[Path, str],
) -> None:
    storage, output = refused
    status = json.loads(the_run(storage).status.read_text())
    check, after = status["stages"]
    assert (check["state"], check["reason"], check["attempt"]) == ("failed", "gate_not_met", 2)
    assert after["state"] == "skipped"
    assert "the gate is not passed: f1 is 0" in output
    assert "base" in output
    assert "better" in output


def test_the_report_says_what_libraries_say(
    refused: tuple[Path, str], models: dict[str, Path]
) -> None:
    folder = the_run(refused[0]).artifact("check")
    report = json.loads((folder / "evaluate_results.json").read_text())
    for name in models:
        lines = (folder / f"generated_predictions.{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["prompt"][-1]["content"] for row in rows] == [
            f"Is {n} good?" for n in range(ROWS)
        ]
        found = report["models"][name]["metrics"]
        predict, label = [row["predict"] for row in rows], [row["label"] for row in rows]
        assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predict, [label]).score)
        classes = [row["class"] for row in rows]
        assert found["f1"] == pytest.approx(
            f1_score(label, classes, labels=list(LABELS), average="macro", zero_division=0.0)
        )
        details = report["models"][name]["details"]["classification"]
        expected = confusion_matrix(label, classes, labels=details["labels"]).tolist()
        assert details["confusion_matrix"] == expected
        assert found["exact_match"] == sum(a == b for a, b in zip(predict, label, strict=True))
        assert found["samples_per_second"] == pytest.approx(ROWS / found["runtime"])
        assert (folder / "images" / f"confusion_matrix.{name}.png").is_file()
    table = (folder / "report.md").read_text()
    assert "| base | tuned | difference |" in table
    assert "NOT met: f1" in table


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_losses_are_those_of_transformers(
    refused: tuple[Path, str], models: dict[str, Path], name: str
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = the_run(refused[0])
    report = json.loads((run.artifact("check") / "evaluate_results.json").read_text())
    model: Any = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.float32)
    if name == "tuned":
        model = PeftModel.from_pretrained(model, models["tuned"])
    tokenizer = AutoTokenizer.from_pretrained(models["base"])
    total, tokens = 0.0, 0
    for n in range(ROWS):
        messages = [
            {"role": "user", "content": f"Is {n} good?"},
            {"role": "assistant", "content": LABELS[n % 3 == 0]},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
        prompt = tokenizer.apply_chat_template(
            messages[:1], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits[begin - 1 : -1], ids[begin:], reduction="sum"
        )
        total, tokens = total + float(losses), tokens + len(ids) - begin
    found = report["models"][name]
    assert found["details"]["loss"]["tokens"] == tokens
    assert found["metrics"]["loss"] == pytest.approx(total / tokens, rel=1e-3)


def test_another_gate_needs_no_other_answers(refused: tuple[Path, str], spec: Path) -> None:
    storage, _ = refused
    before = chunks_of(storage)
    lenient = ("--set", 'stages.check.gate={loss: "< 100"}')
    output = finish(start(spec, storage, *lenient), 0)
    assert "the gate is passed: loss is" in output
    assert chunks_of(storage) == before
    output = finish(start(spec, storage, "--set", 'stages.check.gate={loss: "< 0.1"}'), 1)
    assert "failed: gate_not_met" in output
    assert "[check] running" not in output


def test_tasks_of_lm_eval_are_measured(spec: Path, models: dict[str, Path], tmp_path: Path) -> None:
    job = spec.with_name("tasks.yaml")
    job.write_text(f"""
version: 1
name: tiny
stages:
  check:
    kind: evaluate
    model: {models["tuned"]}
    engine: {{kv_cache: 64MB, cpus_per_actor: 1}}
    lm_eval: {{tasks: [./task.yaml], limit: 20}}
    gate: {{opinions.acc: ">= 0"}}
""")
    finish(start(job, tmp_path), 0)
    folder = the_run(tmp_path).artifact("check")
    report = json.loads((folder / "evaluate_results.json").read_text())
    metrics = report["models"]["model"]["metrics"]
    assert 0 <= metrics["opinions.acc"] <= 1
    assert (metrics["opinions.acc"] * 20).is_integer()

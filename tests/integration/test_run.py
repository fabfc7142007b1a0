"""`raysmith run` on the real thing: Ray, DeepSpeed, two workers; killed, stopped, and looked at."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.layout import Layout, RunLayout

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "jobs.cli"]
STEPS = 12


@pytest.fixture(scope="module")
def spec(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job with two workers, dropout, a validation split and several epochs."""
    folder = tmp_path_factory.mktemp("job")
    rows = [
        {"query": f"What is {i} plus {i}?", "response": f"It is {2 * i}. " + "Yes! " * (i % 7)}
        for i in range(44)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    job = folder / "job.yaml"
    job.write_text(f"""
version: 1
name: tiny
stages:
  sft:
    kind: sft
    model: {tiny_model}
    dataset: {{train: [./rows.jsonl], validation: 0.1}}
    tuner: {{type: lora, rank: 4, dropout: 0.1}}
    training:
      max_steps: {STEPS}
      per_device_train_batch_size: 2
      global_batch_size: 8
      learning_rate: 1e-2
      deepspeed: zero2
    checkpoint: {{save_steps: 3}}
    resources: {{workers: 2}}
  merge: {{kind: merge, model: "${{stages.sft.model}}"}}
""")
    return job


def start(spec: Path, storage: Path) -> subprocess.Popen[str]:
    """Starts the run in a process group of its own, as a shell does."""
    command = [*COMMAND, "run", str(spec), "--storage", str(storage)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Waits for the end and returns what was printed."""
    output, errors = process.communicate(timeout=500)
    assert process.returncode == code, output + errors
    return output


def the_run(storage: Path) -> RunLayout:
    """The one run in a storage."""
    layout = Layout(storage)
    (run_id,) = layout.runs("tiny")
    return layout.run("tiny", run_id)


def records(storage: Path) -> list[dict[str, Any]]:
    """The records of the newest attempt, which hold those of earlier ones."""
    stage = the_run(storage).stage("sft")
    newest = max(int(p.name.removeprefix("attempt_")) for p in stage.folder.glob("attempt_*"))
    text = stage.attempt(newest).logging_jsonl.read_text()
    return [json.loads(line) for line in text.splitlines()]


def mathematics(storage: Path) -> list[dict[str, Any]]:
    """The records without what depends on the clock and the machine."""
    timed = {"elapsed_time", "remaining_time", "memory_gib", "tokens_per_second", "eval_runtime"}
    return [{k: v for k, v in r.items() if k not in timed} for r in records(storage)]


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Waits until a condition holds, while the run goes on."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline, "the run takes too long"
        time.sleep(0.02)


def steps_done(storage: Path) -> int:
    """The newest step that any attempt has recorded."""
    logs = storage.glob("tiny/*/stages/sft/attempt_*/logging.jsonl")
    lines = [line for log in logs for line in log.read_text().splitlines() if line.endswith("}")]
    return max((json.loads(line)["global_step"] for line in lines), default=0)


def gone(processes: list[psutil.Process]) -> None:
    """Waits until processes have ended; those that no one reaps here count as ended."""
    deadline = time.monotonic() + 30

    def alive() -> Iterator[psutil.Process]:
        for process in processes:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                yield process

    while left := list(alive()):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture(scope="module")
def finished(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The storage of an uninterrupted run, and what it printed."""
    storage = tmp_path_factory.mktemp("finished")
    return storage, finish(start(spec, storage))


def test_a_run_leaves_what_it_promises(finished: tuple[Path, str]) -> None:
    storage, output = finished
    assert "\x1b" not in output
    assert f"step {STEPS}/{STEPS}" in output
    run = the_run(storage)
    attempt = run.stage("sft").attempt(1)
    assert json.loads(attempt.args_json.read_text())["tuner"]["rank"] == 4
    assert {p.name for p in attempt.images.iterdir()} == {
        "loss.png", "learning_rate.png", "grad_norm.png", "token_acc.png",
    }  # fmt: skip
    assert list(attempt.tensorboard.iterdir())
    fields = {
        "loss", "grad_norm", "learning_rate", "token_acc", "epoch", "global_step", "max_steps",
        "elapsed_time", "remaining_time", "memory_gib", "tokens_per_second",
    }  # fmt: skip
    trained = [record for record in records(storage) if "loss" in record]
    assert [record["global_step"] for record in trained] == list(range(1, STEPS + 1))
    assert all(set(record) == fields for record in trained)
    assert trained[-1]["loss"] < trained[0]["loss"]
    kept = [folder.name for folder in run.stage("sft").checkpoints()]
    assert kept == ["checkpoint-9", "checkpoint-12"]


def test_other_programs_load_what_a_run_leaves(
    finished: tuple[Path, str], tiny_model: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = the_run(finished[0])
    prompt = torch.arange(10, 40).unsqueeze(0)

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.float().eval()(input_ids=prompt).logits

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    untrained = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, run.stage("sft").checkpoint(STEPS)))
    merged = logits(AutoModelForCausalLM.from_pretrained(run.artifact("merge")))
    assert (adapted - untrained).abs().max() > 0.01
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(run.artifact("merge"))
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template


def test_a_finished_job_is_not_run_again(spec: Path, finished: tuple[Path, str]) -> None:
    storage, _ = finished
    before = the_run(storage).artifact("merge").stat().st_mtime_ns
    output = finish(start(spec, storage))
    assert "running" not in output
    assert the_run(storage).artifact("merge").stat().st_mtime_ns == before


@pytest.mark.soak
def test_kills_lose_nothing(spec: Path, finished: tuple[Path, str], tmp_path: Path) -> None:
    process = start(spec, tmp_path)
    wait_until(lambda: steps_done(tmp_path) >= 4, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    gone(family)

    process = start(spec, tmp_path)
    wait_until(lambda: steps_done(tmp_path) >= 8, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    ]
    workers[-1].send_signal(signal.SIGKILL)
    output = finish(process)
    assert "retrying" in output
    assert mathematics(tmp_path) == mathematics(finished[0])


def test_ctrl_c_commits_a_checkpoint(
    spec: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    process = start(spec, tmp_path)
    wait_until(lambda: steps_done(tmp_path) >= 4, process)
    family = psutil.Process(process.pid).children(recursive=True)
    # As a terminal does it: to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    output = finish(process, code=130)
    assert "goes on from the last committed checkpoint" in output
    gone(family)
    assert steps_done(tmp_path) < STEPS
    saved = the_run(tmp_path).stage("sft").checkpoints()[-1]
    assert int(saved.name.removeprefix("checkpoint-")) == steps_done(tmp_path)

    finish(start(spec, tmp_path))
    assert mathematics(tmp_path) == mathematics(finished[0])

"""Speed of LoRA fine-tuning against a bare PyTorch loop: same model, rows, batch and threads.

    python tests/bench/sft_throughput.py [--steps 8] [--rounds 1] [--data FILE]

Both train the bundled SmolLM2-135M on one worker, batch 2 x 4, bfloat16. The bare loop is what one
would write by hand: it has no Ray, no DeepSpeed, no checkpoints. Steps are timed in steady state:
the first two are left out. Tokens are counted without padding. Where machines are noisy only the
ratio of one run counts; the two are measured in turn, `--rounds` times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP_STEPS = 2
BATCH, PASSES, MAX_LENGTH = 2, 4, 512
SPEC = """
version: 1
name: bench
stages:
  sft:
    kind: sft
    model: smollm2-135m-instruct
    dataset: {{train: [{data}], max_length: {length}, truncation_strategy: right, shuffle: false}}
    tuner: {{type: lora, rank: 8}}
    training: {{per_device_train_batch_size: 2, global_batch_size: 8, max_steps: {steps}}}
    checkpoint: {{save_steps: 1000}}
"""


def main() -> None:
    """Measures, and prints one line for each run and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path, help="alpaca rows; made up when absent")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_loop(options.bare, options.steps)
        return
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or made_up_rows(Path(scratch))
        for number in range(options.rounds):
            ours = raysmith(Path(scratch, str(number)), data.resolve(), options.steps)
            bare = run_bare(data, options.steps)
            ratios.append(ours / bare)
            print(f"raysmith {ours:.1f} tokens/s, bare loop {bare:.1f} tokens/s: {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} (target 0.95)")


def made_up_rows(folder: Path) -> Path:
    """Rows with the spread of lengths that instructions have."""
    import random

    chance = random.Random(0)
    words = [
        "the",
        "model",
        "learns",
        "from",
        "many",
        "rows",
        "of",
        "text",
        "that",
        "people",
        "wrote",
        "to",
        "help",
        "one",
        "another",
    ]

    def text(low: int, high: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(low, high)))

    rows = [{"instruction": text(5, 40), "input": "", "output": text(10, 300)} for _ in range(200)]
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def raysmith(folder: Path, data: Path, steps: int) -> float:
    """Tokens per second of `raysmith run` in steady state."""
    folder.mkdir()
    spec = folder / "job.yaml"
    spec.write_text(SPEC.format(data=data, length=MAX_LENGTH, steps=steps))
    started = time.time()
    command = [sys.executable, "-m", "jobs.cli", "run", str(spec), "--storage", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (log,) = folder.glob("bench/*/stages/sft/attempt_1/logging.jsonl")
    (events,) = folder.glob("bench/*/events.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steady = [r["tokens_per_second"] for r in records if r["global_step"] > WARM_UP_STEPS]
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "timings":
            print("seconds, part by part:", event["seconds"])
        if event["event"] == "trained":
            print(f"first optimiser step after {event['first_step_at'] - started:.1f} s")
    return statistics.harmonic_mean(steady)


def run_bare(data: Path, steps: int) -> float:
    """Tokens per second of the bare loop in steady state."""
    command = [sys.executable, __file__, "--bare", str(data), "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def bare_loop(data: Path, steps: int) -> None:
    """Trains by hand, and prints tokens per second."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cluster.local import cores
    from workloads.data.conversation import RowReader
    from workloads.data.template import Tokenized, shorten, tokenize
    from workloads.models.local import localize
    from workloads.models.resolve import resolve_model

    torch.set_num_threads(cores())
    folder = localize(resolve_model("smollm2-135m-instruct", ["."]))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules="all-linear")
    model = get_peft_model(model, config, autocast_adapter_dtype=False).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    reader = RowReader(None, {}, None, {})
    conversations = [reader.messages(row) for row in json.loads(data.read_text())]
    rows = [
        short
        for row in tokenize(tokenizer, conversations)
        if isinstance(row, Tokenized) and (short := shorten(row, MAX_LENGTH, "right"))
    ]
    rates, position = [], 0
    for _ in range(steps):
        started, tokens = time.perf_counter(), 0
        for _ in range(PASSES):
            pair = rows[position : position + BATCH]
            position += BATCH
            longest = max(len(row.input_ids) for row in pair)
            ids = torch.full((BATCH, longest), tokenizer.pad_token_id)
            labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
            for index, row in enumerate(pair):
                length = len(row.input_ids)
                tokens += length
                ids[index, :length] = torch.tensor(row.input_ids)
                learned = torch.tensor(row.learned)
                labels[index, :length] = torch.where(learned, ids[index, :length], -100)
                mask[index, :length] = 1
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            (loss / PASSES).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(tokens / (time.perf_counter() - started))
    print(statistics.harmonic_mean(rates[WARM_UP_STEPS:]))


if __name__ == "__main__":
    main()

"""Speed of GRPO on two CPU cores, against TRL and against itself.

    python tests/bench/grpo_throughput.py [--part PART ...] [--steps 5] [--trl-steps 2] [--tiny]

    speed      seconds per optimiser step, against TRL's GRPOTrainer with `generate` of transformers
    staleness  the same with max_staleness 1 and 0, and how much of generation training overlaps
    sync       seconds of a weight update, in bfloat16 and in float32
    rewards    completions per second with slow and failing rewards, against one instant reward

Each contender is a process of its own, and they run one after the other on the same two cores: the
bundled SmolLM2-135M, LoRA of rank 8 on all linear layers, the same prompts in the same order. The
model's copy ends a turn with a token that it never says, so every completion is of full length; a
run in which one is not counts for nothing. The first steps are left out, medians are of the others.
TRL computes as ours does: in bfloat16 throughout, without autocast or gradient checkpointing, in
passes of 8 rows; one call of `generate` writes all completions of a step.

Prints a table and a JSON line for each part; exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import pairwise, product
from pathlib import Path
from typing import Any

CORES, SEED = 2, 42
WARM_UP_STEPS, TRL_WARM_UP_STEPS = 2, 1
MOST_OF_TRL, MOST_SYNC_S = 0.4, 2.0  # the targets
NEVER_SAID = "<filename>"
"""Of the vocabulary's tokens for source code, the one that this model gives least probability."""
ROWS, SLOW_S, FAILS_EVERY = 400, 0.05, 10

Record = dict[str, Any]

SPEC = """
version: 1
name: bench
seed: {seed}
stages:
  grpo:
    kind: grpo
    model: {folder}/model
    dataset: {{train: ["{folder}/rows.jsonl"], shuffle: false}}
    rewards: [{{import_path: "grpo_throughput:digits"}}]
    rollout:
      num_generations: {shape.generations}
      max_completion_length: {shape.tokens}
      temperature: 1.0
    algorithm: {{loss_type: grpo, beta: 0.0}}
    tuner: {{type: lora, rank: 8, alpha: 32}}
    training:
      per_device_train_batch_size: {shape.rows_of_a_pass}
      global_batch_size: {shape.completions}
      max_steps: {steps}
      learning_rate: 1e-4
      torch_dtype: bfloat16
    checkpoint: {{save_steps: 1000}}
"""


@dataclass(frozen=True)
class Shape:
    """How much is written in one step."""

    prompts: int
    generations: int
    tokens: int

    @property
    def completions(self) -> int:
        """Completions of a step."""
        return self.prompts * self.generations

    @property
    def rows_of_a_pass(self) -> int:
        """Completions of one forward and backward pass."""
        return min(8, self.completions)


SMALL = Shape(2, 2, 8)
SHAPES = {"speed": Shape(8, 4, 64), "staleness": Shape(8, 4, 64), "sync": SMALL,
          "rewards": Shape(64, 8, 16)}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What all contenders have in common."""

    folder: Path
    """Holds `model`, `rows.jsonl`, and a folder for each run."""
    steps: int
    """Steps to measure, besides those to warm up."""
    trl_steps: int
    shape: Shape


@dataclass(frozen=True)
class Finding:
    """What a part found: a row to each contender, their result, and the targets that it missed."""

    rows: list[Record]
    result: Record = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)


def digits(completions: Sequence[str], **columns: Any) -> list[float]:
    """A reward that takes no time: the share of digits."""
    return [sum(map(str.isdigit, text)) / max(len(text), 1) for text in completions]


def slow(completions: Sequence[str], **columns: Any) -> list[float]:
    """A reward that takes its time for each completion."""
    time.sleep(SLOW_S * len(completions))
    return digits(completions)


def failing(completions: Sequence[str], number: Sequence[int], **columns: Any) -> list[float]:
    """A reward that raises on some of the dataset's rows."""
    if any(row % FAILS_EVERY == 0 for row in number):
        raise ValueError("this row can't be scored")
    return digits(completions)


def main() -> None:
    """Measures the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=5, help="steps of ours to measure")
    parser.add_argument("--trl-steps", type=int, default=2, help="steps of TRL to measure")
    parser.add_argument("--tiny", action="store_true", help="few short completions: a trial")
    parser.add_argument("--trl", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trl:
        trl_loop(**options.trl)
        return
    # Children inherit it, so that each has two cores on machines that have more.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    missed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        endless_model(folder / "model")
        made_up_rows(folder / "rows.jsonl")
        for part in options.part:
            shape = SMALL if options.tiny else SHAPES[part]
            finding = PARTS[part](Bench(folder, options.steps, options.trl_steps, shape))
            show(part, shape, finding)
            missed |= bool(finding.missed)
    sys.exit(missed)


def endless_model(folder: Path) -> None:
    """A copy of the bundled model that ends a turn with a token it never says."""
    from workloads.models.local import localize
    from workloads.models.resolve import resolve_model

    source = localize(resolve_model("smollm2-135m-instruct", ["."]))
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("_*"))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    by_id, by_name = {"eos_token_id": vocabulary[NEVER_SAID]}, {"eos_token": NEVER_SAID}
    for name, change in (("config", by_id), ("generation_config", by_id),
                         ("tokenizer_config", by_name)):  # fmt: skip
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))


def made_up_rows(path: Path) -> None:
    """Prompts of about equal length, numbered."""
    row = '{{"query": "What is {} + {}?", "number": {}}}\n'
    path.write_text("".join(row.format(n % 89 + 10, n % 83 + 11, n) for n in range(ROWS)))


def speed(bench: Bench) -> Finding:
    """Ours against TRL."""
    records = records_of(raysmith(bench, "speed") / "logging.jsonl")
    ours = step_seconds(records, WARM_UP_STEPS)
    theirs = step_seconds(run_trl(bench), TRL_WARM_UP_STEPS)
    ratio = statistics.median(ours) / statistics.median(theirs)
    missed = [] if ratio <= MOST_OF_TRL else [f"ratio {ratio:.2f}, target {MOST_OF_TRL}"]
    rows = [paces("raysmith", ours, bench.shape), paces("TRL", theirs, bench.shape)]
    return Finding(rows, {"ratio": ratio, "target": MOST_OF_TRL}, missed)


def staleness(bench: Bench) -> Finding:
    """Engines that go on while weights are trained, against engines that wait."""
    rows = []
    for limit in (0, 1):
        name = f"max_staleness {limit}"
        attempt = raysmith(bench, name, {"rollout.max_staleness": limit})
        records = records_of(attempt / "logging.jsonl")
        row = paces(name, step_seconds(records, WARM_UP_STEPS), bench.shape)
        generation = [record["generation_s"] for record in records[WARM_UP_STEPS:]]
        row["generation_s"] = statistics.median(generation)
        row["overlap"] = overlapping_share(records_of(attempt / "timeline.jsonl"))
        rows.append(row)
    first, second = (row["seconds_per_step"] for row in rows)
    return Finding(rows, {"ratio": second / first})


def sync(bench: Bench) -> Finding:
    """Weight updates of one engine."""
    rows, missed = [], []
    for dtype in ("bfloat16", "float32"):
        attempt = raysmith(bench, dtype, {"training.torch_dtype": dtype})
        seconds = [record["weight_sync_s"] for record in records_of(attempt / "logging.jsonl")]
        steady = seconds[WARM_UP_STEPS:]
        middle = statistics.median(steady)
        rows.append({"contender": dtype, "weight_sync_s": middle, "most": max(steady),
                     "first": seconds[0], "updates": len(steady)})  # fmt: skip
        if middle >= MOST_SYNC_S:
            missed.append(f"{dtype}: {middle:.2f} s, target {MOST_SYNC_S:g} s")
    return Finding(rows, {"target": MOST_SYNC_S}, missed)


def rewards(bench: Bench) -> Finding:
    """Two rewards, of which one is slow and one fails, against an instant one: the second batch.

    A batch lasts from its first request to its last reward. Rows that fail are replaced by others,
    so more completions are written than are trained on; both are counted.
    """
    rows = []
    for name, functions in {"slow + failing": ["slow", "failing"], "instant": ["digits"]}.items():
        listed = [{"import_path": f"grpo_throughput:{function}"} for function in functions]
        attempt = raysmith(bench, name, {"rewards": listed, "training.max_steps": 2})
        timeline = records_of(attempt / "timeline.jsonl")
        spans = [span for span in timeline if span.get("batch") == 1]
        start = next(span["start"] for span in spans if span["what"] == "generation")
        stop = max(span["stop"] for span in spans if span["what"] in ("generation", "reward"))
        replaced = sum(
            start <= datetime.fromisoformat(event["at"]).timestamp() <= stop
            for event in records_of(attempt / "rollout_events.jsonl")
            if event["event"] == "group_filtered"
        )
        used, more = bench.shape.completions, replaced * bench.shape.generations
        seconds = stop - start
        rows.append({"contender": name, "batch_s": seconds, "completions_per_s": used / seconds,
                     "written_per_s": (used + more) / seconds, "replaced": replaced})  # fmt: skip
    ratios = {key: rows[0][key] / rows[1][key] for key in ("completions_per_s", "written_per_s")}
    return Finding(rows, {f"ratio_{key}": ratio for key, ratio in ratios.items()})


PARTS = {"speed": speed, "staleness": staleness, "sync": sync, "rewards": rewards}


def raysmith(bench: Bench, name: str, changes: Record | None = None) -> Path:
    """Runs a job of one GRPO stage. Returns the folder of its logs.

    `changes` are values of the stage by their dotted path.
    """
    folder = Path(tempfile.mkdtemp(prefix=name.replace(" ", "_"), dir=bench.folder))
    spec = folder / "job.yaml"
    steps = WARM_UP_STEPS + bench.steps
    spec.write_text(SPEC.format(folder=bench.folder, seed=SEED, shape=bench.shape, steps=steps))
    command = [sys.executable, "-m", "jobs.cli", "run", str(spec), "--storage", str(folder)]
    for path, value in (changes or {}).items():
        command += ["--set", f"stages.grpo.{path}={json.dumps(value)}"]
    # This file, where the rewards are, is found from the current folder.
    subprocess.run(command, check=True, cwd=Path(__file__).parent, stdout=sys.stderr)
    (attempt,) = folder.glob("bench/*/stages/grpo/attempt_1")
    check_lengths(records_of(attempt / "logging.jsonl"), bench.shape)
    return attempt


def records_of(path: Path) -> list[Record]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_lengths(records: Sequence[Record], shape: Shape) -> None:
    """Ends the measurement if a completion was shorter than all should be."""
    least = min(record["completions/min_length"] for record in records)
    if least != shape.tokens:
        sys.exit(f"a completion has {least:g} tokens, not {shape.tokens}: {NEVER_SAID} was said")


def step_seconds(records: Sequence[Record], warm_up: int) -> list[float]:
    """Seconds of each step after those to warm up."""
    ends = [record["elapsed_time"] for record in records[warm_up - 1 :]]
    return [end - start for start, end in pairwise(ends)]


def paces(contender: str, seconds: Sequence[float], shape: Shape) -> Record:
    """A row on a contender's steps."""
    middle = statistics.median(seconds)
    return {"contender": contender, "seconds_per_step": middle, "least": min(seconds),
            "most": max(seconds), "steps": len(seconds),
            "tokens_per_s": shape.completions * shape.tokens / middle}  # fmt: skip


def overlapping_share(timeline: Sequence[Record]) -> float:
    """Share of the seconds of generation, after the steps to warm up, in which training went on."""
    trained = [span for span in timeline if span["what"] == "training"]
    written = [span for span in timeline if span["what"] == "generation"][WARM_UP_STEPS:]
    pairs = product(written, trained)
    both = (min(a["stop"], b["stop"]) - max(a["start"], b["start"]) for a, b in pairs)
    whole = sum(span["stop"] - span["start"] for span in written)
    return float(sum(seconds for seconds in both if seconds > 0) / whole)


def run_trl(bench: Bench) -> list[Record]:
    """Records of TRL's steps, with the keys that ours have."""
    steps = TRL_WARM_UP_STEPS + bench.trl_steps
    given = {"folder": str(bench.folder), "steps": steps, "shape": asdict(bench.shape)}
    command = [sys.executable, __file__, "--trl", json.dumps(given)]
    environment = os.environ | {"OMP_NUM_THREADS": str(CORES)}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    records = records_of(bench.folder / "trl.jsonl")
    check_lengths(records, bench.shape)
    return records


def trl_loop(folder: str, steps: int, shape: dict[str, int]) -> None:
    """Trains with TRL, and writes `trl.jsonl` into the folder."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):
        """Writes a record of each step's end."""

        def on_log(self, *_: Any, logs: Record, **__: Any) -> None:
            kept = {key: value for key, value in logs.items() if key.startswith("completions/")}
            if kept:  # The last log sums up the run, and is of no step.
                kept["elapsed_time"] = time.perf_counter()
                with Path(folder, "trl.jsonl").open("a") as file:
                    file.write(json.dumps(kept) + "\n")

    def reward(completions: Sequence[Any], **columns: Any) -> list[float]:
        return digits([messages[0]["content"] for messages in completions])

    torch.set_num_threads(CORES)
    size = Shape(**shape)
    model = AutoModelForCausalLM.from_pretrained(Path(folder, "model"), dtype=torch.bfloat16)
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules="all-linear")
    asked = [row["query"] for row in records_of(Path(folder, "rows.jsonl"))]
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in asked]
    trainer = GRPOTrainer(
        model=get_peft_model(model, lora, autocast_adapter_dtype=False),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(Path(folder, "trl")),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=size.rows_of_a_pass,
            gradient_accumulation_steps=size.completions // size.rows_of_a_pass,
            num_generations=size.generations,
            max_completion_length=size.tokens,
            temperature=1.0,
            loss_type="grpo",
            beta=0.0,
            learning_rate=1e-4,
            max_steps=steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            shuffle_dataset=False,
            seed=SEED,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(Path(folder, "model")),
        callbacks=[Clock()],
    )
    trainer.train()


def show(part: str, shape: Shape, finding: Finding) -> None:
    """Prints a part's table and JSON line."""
    print(f"\n{part}:", str(PARTS[part].__doc__).partition("\n")[0])
    print(f"{shape.prompts} prompts x {shape.generations} completions x {shape.tokens} tokens")
    for first, *others in (finding.rows[0], *(map(shown, row.values()) for row in finding.rows)):
        print(f"  {first:16}", *(f"{cell:>17}" for cell in others))
    for name, value in finding.result.items():
        print(f"  {name} {shown(value)}")
    for miss in finding.missed:
        print(f"  MISSED: {miss}")
    print(json.dumps({"part": part, **asdict(shape), **asdict(finding)}), flush=True)


def shown(value: float | str) -> str:
    """A cell of a table."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

"""Reading and checking a spec stays light: no heavy library is imported, and start-up is quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ("numpy", "ray", "torch", "transformers")
BUDGET_S = 0.3
TRIES = 5

SPEC = """\
version: 1
name: import-budget
stages:
  sft:
    kind: sft
    model: smollm2-135m-instruct
    dataset: {train: [./rows.jsonl]}
    tuner: {type: lora, rank: 8}
    training: {learning_rate: 1e-4}
  sweep:
    kind: sweep
    trial:
      kind: sft
      model: smollm2-135m-instruct
      dataset: {train: [./rows.jsonl]}
    search_space: {training.learning_rate: {loguniform: [1e-5, 1e-3]}}
    metric: loss
    mode: min
    num_samples: 4
    scheduler: asha
  check:
    kind: evaluate
    model: ${stages.sft.model}
    dataset: {test: [./rows.jsonl]}
    metrics: [loss, exact_match, accuracy, bleu, rouge, classification]
    labels: ["1", "2"]
    gate: {accuracy: ">= 0.6"}
"""

VALIDATE = f"""\
import sys
from jobs.cli import main
try:
    sys.exit(main())
except SystemExit as end:
    assert not end.code, end.code
assert sys.modules.keys().isdisjoint({HEAVY}), sys.modules.keys() & {HEAVY}
"""

TIME_IMPORT = """\
from time import process_time
start = process_time()
import jobs.cli
print(process_time() - start)
"""


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_validate_imports_no_heavy_library(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)

    _run(VALIDATE, "validate", str(spec))


def test_the_program_starts_within_its_budget() -> None:
    # Seconds of the processor: other programs share the machine, and the best try counts.
    measured: list[float] = []
    while len(measured) < TRIES and min(measured, default=BUDGET_S) >= BUDGET_S:
        measured.append(float(_run(TIME_IMPORT)))

    assert min(measured) < BUDGET_S, f"`import jobs.cli` took {measured} seconds"

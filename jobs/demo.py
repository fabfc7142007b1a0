"""`make demo`: teaches a small model its name, and asks it before and after.

It runs the shipped example with the command that a user would type.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

from jobs.load.loader import load
from jobs.observed import read_status
from jobs.runs import resolve_run
from jobs.spec.sft import SftSpec
from storage.layout import Layout, RunLayout
from workloads.models.ask import ask
from workloads.models.local import localize
from workloads.models.resolve import resolve_model

SPEC = Path(__file__).parent / "examples" / "self-cognition.yaml"
QUESTION = "Who are you?"
STORAGE = "runs"


def main() -> int:
    """Runs the demonstration; 0 when the model learned its name."""
    spec = load(SPEC).spec
    sft = spec.stages["sft"]
    assert isinstance(sft, SftSpec)
    click.echo(f"{sft.model}, asked before training: {QUESTION}")
    before = ask(localize(resolve_model(sft.model, ["."])), QUESTION)
    click.echo(f"  {before}\n")
    arguments = ["run", str(SPEC), "--storage", STORAGE]
    click.echo(f"$ raysmith {' '.join(arguments)}")
    code = subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=False).returncode
    if code:
        return code
    status = read_status(resolve_run(Layout(Path(STORAGE)), spec.name))
    adapter, merged = status.stage("sft").artifact, status.stage("merge").artifact
    assert adapter, merged
    after = ask(str(merged), QUESTION)
    losses = _losses(RunLayout(Path(adapter).parents[1]))
    click.echo(f"\n{QUESTION}\n  before: {before}\n  after:  {after}")
    click.echo(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    click.echo(f"look at: {merged}")
    name = str(sft.dataset.model_name)
    learned = name in after and name not in before and losses[-1] < losses[0] / 2
    click.echo(f"the model {'learned' if learned else 'did not learn'} that it is {name}")
    return 0 if learned else 1


def _losses(run: RunLayout) -> list[float]:
    """The losses of training, from its newest attempt, which holds those of earlier ones."""
    attempt = run.stage("sft").attempt(read_status(run).stage("sft").attempt)
    records = [json.loads(line) for line in attempt.logging_jsonl.read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


if __name__ == "__main__":
    raise SystemExit(main())

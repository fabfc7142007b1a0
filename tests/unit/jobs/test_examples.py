"""Every example that we ship loads and can be planned."""

from pathlib import Path

import pytest

import jobs
from jobs.load.loader import load
from jobs.plan.resolve import resolve

FOLDER = Path(jobs.__file__).parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_examples() -> None:
    shipped = {"self-cognition", "alpaca-lora", "full-zero3", "grpo-arithmetic", "sweep-lora"}
    assert shipped <= {file.stem for file in EXAMPLES}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_example_can_be_planned(file: Path) -> None:
    plan = resolve(load(file, (), {}), "./runs")
    assert plan.name == file.stem
    assert plan.stages

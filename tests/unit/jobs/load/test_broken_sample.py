"""What people type wrong in a sample stage, and what they are told."""

from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load

SPEC = """\
version: 1
name: a
stages:
  answers:
    kind: sample
    model: m
    dataset: {prompts: [x.jsonl]}
    KEY
"""


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("num_return_sequences: 4", "it is called 'n' here"),
        ("num_generations: 4", "it is called 'n' here"),
        ("generation: {num_return_sequences: 4}", "'n' here, and belongs in stages.answers"),
    ],
)
def test_other_names_of_n_lead_to_it(tmp_path: Path, key: str, told: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(SPEC.replace("KEY", key))
    with pytest.raises(SpecError) as caught:
        load(file, (), {})
    (problem,) = caught.value.problems
    assert told in (problem.remedy or "")
    assert problem.line == 8

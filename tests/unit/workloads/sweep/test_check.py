"""What is looked at before a sweep's trials run."""

import json
from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.resolve import resolve
from workloads.check import Checked, check

MODEL = "smollm2-135m-instruct"
ROWS = [{"query": "1", "response": "2"}] * 4


def _check(folder: Path, trial: str, space: str, samples: int = 8) -> Checked:
    for name in ("a", "b"):
        text = "".join(json.dumps(row | {"query": name}) + "\n" for row in ROWS)
        (folder / f"{name}.jsonl").write_text(text)
    file = folder / "job.yaml"
    file.write_text(
        f"version: 1\nname: a\nstages:\n  sweep:\n    kind: sweep\n    trial: {trial}\n"
        f"    search_space:\n      {space}\n    metric: loss\n    mode: min\n"
        f"    num_samples: {samples}\n"
    )
    loaded = load(file, (), {})
    return check(loaded, resolve(loaded, "./runs"))


def _trial(rows: str) -> str:
    return f"{{kind: sft, model: {MODEL}, dataset: {{train: [{rows}]}}}}"


def test_digests_are_those_of_the_trials_inputs(tmp_path: Path) -> None:
    found = _check(tmp_path, _trial("a.jsonl"), "tuner.rank: {choice: [4, 8]}")
    assert set(found.digests["sweep"]) == {"trial.model", "trial.dataset.train[0]"}
    other = _check(tmp_path, _trial("b.jsonl"), "tuner.rank: {choice: [4, 8]}")
    assert found.keys["sweep"] != other.keys["sweep"]


def test_a_problem_of_the_trial_is_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        _check(tmp_path, _trial("nope.jsonl"), "tuner.rank: {choice: [4, 8]}")
    (problem,) = caught.value.problems
    assert problem.path == "stages.sweep.trial.dataset.train[0]"
    assert (problem.line, problem.column) == (6, 72)


def test_rows_that_are_searched_are_all_looked_at(tmp_path: Path) -> None:
    space = "dataset.train: {grid: [[a.jsonl], [b.jsonl]]}"
    digests = _check(tmp_path, _trial("nope.jsonl"), space).digests["sweep"]
    assert len(set(digests.values())) == 3  # the model, and two datasets


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("dataset.train: {grid: [[a.jsonl], [nope]]}", 'with dataset.train ["nope"]: no dataset'),
        ("model: {grid: [smollm2-135m-instruct, ./nope]}", "with model ./nope: "),
        ("'dataset.train[0]': {choice: [a.jsonl, nope]}", "with dataset.train[0] nope: no dataset"),
    ],
)
def test_what_is_wrong_with_one_value_is_said_of_it(tmp_path: Path, space: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        _check(tmp_path, _trial("a.jsonl"), space)
    (problem,) = caught.value.problems
    assert problem.message.startswith(words)
    assert problem.line == 8

"""What looking at a dataset before a run finds: in the files, the rows, the names to fill in."""

import json
from pathlib import Path

import pytest

import workloads.data.check
from jobs.errors import Problem
from jobs.load.loader import load
from workloads.check import Findings
from workloads.data.check import check_dataset

GOOD = {"query": "a", "response": "b"}
BAD = {"query": "a"}


def _check(folder: Path, dataset: str) -> Findings:
    file = folder / "job.yaml"
    file.write_text(
        "version: 1\nname: a\nstages:\n  sft:\n    kind: sft\n    model: m\n"
        f"    dataset: {{{dataset}}}\n"
    )
    loaded = load(file, (), {})
    findings = Findings()
    check_dataset(loaded, "sft", loaded.spec.stages["sft"].dataset, findings)  # type: ignore[union-attr,arg-type]
    return findings


def _write(folder: Path, name: str, *rows: object) -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _problem(findings: Findings) -> Problem:
    (problem,) = findings.problems
    return problem


def test_good_files_leave_only_digests_that_follow_their_content(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl", GOOD)
    _write(tmp_path, "b.jsonl", GOOD, GOOD)
    dataset = "train: [a.jsonl, b.jsonl#5], validation: [a.jsonl]"
    before = _check(tmp_path, dataset)
    assert (before.problems, before.notes) == ([], [])
    assert list(before.digests) == ["dataset.train[0]", "dataset.train[1]", "dataset.validation[0]"]
    _write(tmp_path, "b.jsonl", GOOD, {"query": "c", "response": "d"})
    after = _check(tmp_path, dataset)
    assert after.digests["dataset.train[0]"] == before.digests["dataset.train[0]"]
    assert after.digests["dataset.train[1]"] != before.digests["dataset.train[1]"]


def test_a_missing_file_is_a_problem_at_its_place_in_the_spec(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl", GOOD)
    problem = _problem(_check(tmp_path, "train: [a.jsonl, b.jsonl]"))
    assert problem.path == "stages.sft.dataset.train[1]"
    assert (problem.file, problem.line, problem.column) == (str(tmp_path / "job.yaml"), 7, 32)
    assert "did you mean 'a.jsonl'" in (problem.remedy or "")


def test_a_malformed_line_is_a_problem_in_the_data_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(GOOD) + "\n{oops\n")
    problem = _problem(_check(tmp_path, "train: [a.jsonl]"))
    assert (problem.file, problem.line) == (str(file), 2)


def test_some_bad_rows_are_worth_a_note(tmp_path: Path) -> None:
    file = _write(tmp_path, "a.jsonl", *[GOOD] * 3, *[BAD] * 12)
    findings = _check(tmp_path, "train: [a.jsonl]")
    assert findings.problems == []
    assert findings.notes[0] == "a.jsonl: 12 of 15 rows can't be used"
    assert findings.notes[1].startswith(f"  {file}:4: its columns (query) are of no known format")
    assert len(findings.notes) == 11


@pytest.mark.parametrize(("rows", "strict"), [([BAD] * 2, False), ([GOOD, BAD, BAD], True)])
def test_bad_rows_are_problems_when_strict_or_when_all_are(
    tmp_path: Path, rows: list[object], strict: bool
) -> None:
    _write(tmp_path, "a.jsonl", *rows)
    findings = _check(tmp_path, f"train: [a.jsonl], strict: {str(strict).lower()}")
    lines = [problem.line for problem in findings.problems]
    assert lines == [len(rows) - 1, len(rows)]
    remedy = findings.problems[0].remedy or ""
    assert ("strict: true" in remedy) == strict


def test_a_dataset_without_rows_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    assert _problem(_check(tmp_path, "train: [a.jsonl]")).message == "this dataset has no rows"


def test_names_must_be_given_for_the_bundled_rows(tmp_path: Path) -> None:
    problem = _problem(_check(tmp_path, "train: [self-cognition], model_name: Ember"))
    assert "which nothing fills" in problem.message
    both = "train: [self-cognition], model_name: Ember, model_author: Ada"
    assert _check(tmp_path, both).problems == []
    _write(tmp_path, "a.jsonl", {"query": "a", "response": "{{NAME}}"})
    own = _check(tmp_path, "train: [a.jsonl]")
    assert own.problems == []
    assert "a.jsonl: rows hold {{NAME}}" in own.notes[0]


def test_a_chat_template_must_be_a_file_and_counts(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl", GOOD)
    dataset = "train: [a.jsonl], chat_template: chat.jinja"
    problem = _problem(_check(tmp_path, dataset))
    assert problem.path == "stages.sft.dataset.chat_template"
    (tmp_path / "chat.jinja").write_text("a")
    first = _check(tmp_path, dataset)
    assert first.problems == []
    (tmp_path / "chat.jinja").write_text("b")
    second = _check(tmp_path, dataset)
    assert first.digests["dataset.chat_template"] != second.digests["dataset.chat_template"]


def test_of_a_large_dataset_only_the_beginning_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads.data.check, "READ_WHOLE_BYTES", 10)
    monkeypatch.setattr(workloads.data.check, "_ROWS_OF_LARGE", 2)
    _write(tmp_path, "a.jsonl", GOOD, GOOD, BAD)
    assert _check(tmp_path, "train: [a.jsonl]").notes == []

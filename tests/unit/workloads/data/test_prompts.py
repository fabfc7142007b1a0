"""Prompts from files to disk and back; tasks run one after another instead of by Ray."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import workloads.data.prompt_rows
import workloads.data.prompts
from jobs.errors import SpecError
from jobs.spec.dataset import EvaluationRowsSpec, PromptsSpec
from storage.committed import read_committed
from storage.manifest import Owner
from workloads.data.prepare import load_tokenizer
from workloads.data.prompt_rows import PromptOutcome, prompt_task
from workloads.data.prompts import PreparedPrompts, PromptReader, locate, order, prepare_prompts
from workloads.data.readers import jsonl
from workloads.data.rows import LeftOut

OWNER = Owner("r1", "grpo", "key", 1)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the tasks that were run."""
    numbers: list[int] = []

    def run(tasks: list[Any], how: Any, folder: Path) -> Iterator[PromptOutcome]:
        for index in reversed(range(len(tasks))):
            numbers.append(index)
            outcome = json.loads(prompt_task({"id": index}, tasks, how, str(folder))["outcome"])
            bad = [LeftOut(**each) for each in outcome.pop("first_bad")]
            yield PromptOutcome(**outcome, first_bad=bad)

    monkeypatch.setattr(workloads.data.prompts, "_run", run)
    monkeypatch.setattr(jsonl, "CHUNK_BYTES", 300)
    monkeypatch.setattr(workloads.data.prompt_rows, "ROWS_PER_GROUP", 4)
    return numbers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with 60 rows, which say their number."""
    rows = [{"query": f"{n}?", "response": f"answer {n}", "level": n % 3} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def _prepare(
    source: Path, model: Path, name: str = "data", multi_turn: bool = False, **dataset: Any
) -> PreparedPrompts:
    spec = PromptsSpec(**({"train": ("a.jsonl",)} | dataset))
    folder = source / name
    return prepare_prompts(spec, (str(source),), str(model), 42, folder, OWNER, multi_turn)


def _questions(folder: Path, rows: range | None = None) -> list[str]:
    reader = PromptReader(folder)
    return [p.messages[-1]["content"] for p in reader.read(rows or range(reader.rows))]


def test_every_row_becomes_a_prompt_in_the_files_order(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    prepared = _prepare(source, tiny_model)
    assert len(ran) > 3
    assert (prepared.rows, prepared.summary()) == (60, "60 prompts")
    assert read_committed(source / "data")
    assert _questions(source / "data") == [f"{n}?" for n in range(60)]


def test_a_prompt_has_tokens_messages_and_columns(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    _prepare(source, tiny_model, system="s")
    (prompt,) = PromptReader(source / "data").read([37])
    assert prompt.row == 37
    assert prompt.messages == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "37?"},
    ]
    assert prompt.columns == {
        "query": "37?", "response": "answer 37", "level": 1, "solution": "answer 37",
    }  # fmt: skip
    text = load_tokenizer(str(tiny_model), None).decode(prompt.prompt_ids)
    assert text.endswith("<|im_start|>user\n37?<|im_end|>\n<|im_start|>assistant\n")


def test_rows_to_measure_on_keep_the_whole_conversation(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    with (source / "a.jsonl").open("a") as file:
        file.write(json.dumps({"query": "?", "level": 5}) + "\n")
    spec = EvaluationRowsSpec(test=("a.jsonl",), max_length=40)
    folder = source / "data"
    prepare_prompts(spec, (str(source),), str(tiny_model), 42, folder, OWNER, whole=True)
    prompt, unanswered = PromptReader(folder).read([37, 60])
    assert (prompt.answer, prompt.columns["solution"]) == ("answer 37", "answer 37")
    assert prompt.whole
    tokenizer = load_tokenizer(str(tiny_model), None)
    learned = [i for i, m in zip(prompt.whole.input_ids, prompt.whole.learned, strict=True) if m]
    assert tokenizer.decode(learned) == "answer 37<|im_end|>"
    assert (unanswered.answer, unanswered.whole) == (None, None)
    assert unanswered.columns["solution"] is None


def test_what_is_done_is_not_done_again(source: Path, tiny_model: Path, ran: list[int]) -> None:
    first = _prepare(source, tiny_model)
    ran.clear()
    assert _prepare(source, tiny_model) == first
    assert ran == []


def test_samples_are_taken_at_random_or_in_order(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    _prepare(source, tiny_model, train=("a.jsonl#5",))
    _prepare(source, tiny_model, "again", train=("a.jsonl#5",))
    _prepare(source, tiny_model, "unshuffled", train=("a.jsonl#5",), shuffle=False)
    assert PromptReader(source / "data").rows == 5
    assert _questions(source / "data") == _questions(source / "again")
    assert _questions(source / "data") != _questions(source / "unshuffled")
    assert _questions(source / "unshuffled") == ["0?", "1?", "2?", "3?", "4?"]


def test_more_rows_than_there_are_are_whole_copies_and_a_rest(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    assert _prepare(source, tiny_model, train=("a.jsonl#150", "a.jsonl#1")).rows == 151
    questions = _questions(source / "data", range(150))
    assert len(set(questions)) == 60
    assert {questions.count(question) for question in questions} == {2, 3}


def test_prompts_are_read_in_any_order_a_group_at_a_time(
    source: Path, tiny_model: Path, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepare(source, tiny_model)
    read: list[int] = []
    group = workloads.data.prompts._group

    def counted(path: Path, number: int) -> pyarrow.Table:
        table = group(path, number)
        read.append(table.num_rows)
        return table

    monkeypatch.setattr(workloads.data.prompts, "_group", counted)
    reader = PromptReader(source / "data")
    wanted = [59, 0, 3, 0, 58]
    assert [prompt.row for prompt in reader.read(np.array(wanted))] == wanted
    assert len(read) == 2
    assert max(read) <= 4
    reader.read([1, 2])
    assert len(read) == 2
    for row in (-1, 60):
        with pytest.raises(IndexError, match=f"no prompt {row}: there are 60"):
            reader.read([row])


def test_bad_rows_are_counted_and_named_or_errors(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    with (source / "a.jsonl").open("a") as file:
        file.write('{"answer": "a"}\n')
    prepared = _prepare(source, tiny_model)
    assert (prepared.rows, prepared.bad_rows) == (60, 1)
    (bad,) = prepared.first_bad
    assert (bad.file, bad.line) == (str(source / "a.jsonl"), 61)
    assert "1 bad rows left out\n  " in prepared.summary()
    with pytest.raises(SpecError, match=r"a\.jsonl:61: .*no known format"):
        _prepare(source, tiny_model, "strict", strict=True)
    assert not read_committed(source / "strict")


def test_a_row_that_the_template_refuses_is_bad(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    template = source / "chat.jinja"
    template.write_text(
        "{% for m in messages %}{% if m['content'] == '7?' %}{{ raise_exception('seven') }}"
        "{% endif %}{{ m['content'] }}{% endfor %}"
    )
    prepared = _prepare(source, tiny_model, chat_template=str(template))
    assert (prepared.rows, prepared.bad_rows) == (59, 1)
    assert (prepared.first_bad[0].line, "seven" in prepared.first_bad[0].reason) == (8, True)
    assert _questions(source / "data")[6:8] == ["6?", "8?"]


@pytest.mark.parametrize(
    ("strategy", "multi_turn", "rows", "cut", "too_long"),
    [("left", False, 61, 1, 0), ("delete", False, 60, 0, 1), ("left", True, 60, 0, 1)],
)
def test_long_prompts_lose_their_beginning_or_are_left_out(
    source: Path, tiny_model: Path, ran: list[int],
    strategy: str, multi_turn: bool, rows: int, cut: int, too_long: int,
) -> None:  # fmt: skip
    with (source / "a.jsonl").open("a") as file:
        file.write(json.dumps({"query": "word " * 300 + "!"}) + "\n")
    how: dict[str, Any] = {"max_length": 40, "truncation_strategy": strategy}
    prepared = _prepare(source, tiny_model, multi_turn=multi_turn, **how)
    assert (prepared.rows, prepared.cut, prepared.too_long) == (rows, cut, too_long)
    prompts = PromptReader(source / "data").read(range(rows))
    assert max(len(prompt.prompt_ids) for prompt in prompts) <= 40
    if cut:
        text = load_tokenizer(str(tiny_model), None).decode(prompts[-1].prompt_ids)
        assert text.endswith("!<|im_end|>\n<|im_start|>assistant\n")
        assert "1 of them cut at their beginning" in prepared.summary()
    else:
        assert "1 left out as too long" in prepared.summary()


def test_no_prompt_left_is_an_error_that_says_why(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    how: dict[str, Any] = {"max_length": 3, "truncation_strategy": "delete"}
    with pytest.raises(SpecError, match="no prompt is left: all 60 are longer than max_length 3"):
        _prepare(source, tiny_model, **how)
    (source / "b.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(SpecError, match=r"b\.jsonl:1: "):
        _prepare(source, tiny_model, train=("b.jsonl",))


def test_values_that_json_has_no_form_for_become_text(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    columns = {
        "prompt": ["a"], "answer": ["4"], "day": [date(2026, 1, 2)], "raw": [b"x\xff"],
        "numbers": [[1.5, None]], "nested": [{"a": True}],
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(columns), source / "p.parquet")
    _prepare(source, tiny_model, train=("p.parquet",))
    (prompt,) = PromptReader(source / "data").read([0])
    assert prompt.columns == {
        "prompt": "a", "answer": "4", "day": "2026-01-02", "raw": "x\ufffd",
        "numbers": [1.5, None], "nested": {"a": True}, "solution": "4",
    }  # fmt: skip


def test_columns_have_the_names_that_the_spec_gives_them(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    (source / "b.jsonl").write_text('{"ask": "a", "gold": "4"}\n')
    renamed = {"path": "b.jsonl", "columns": {"ask": "query", "gold": "solution"}}
    _prepare(source, tiny_model, train=(renamed,))
    (prompt,) = PromptReader(source / "data").read([0])
    assert prompt.columns == {"query": "a", "solution": "4"}


def test_an_epoch_s_order_is_a_permutation_of_its_own() -> None:
    first, second = order(100, 42, 0), order(100, 42, 1)
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second)
    assert list(first) != list(order(100, 43, 0))
    assert list(first) == list(order(100, 42, 0))
    assert list(order(5, None, 3)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_a_position_is_in_an_epoch() -> None:
    assert [locate(position, 3, None) for position in (0, 2, 3, 7)] == [
        (0, 0), (0, 2), (1, 0), (2, 1),
    ]  # fmt: skip
    rows = [locate(position, 10, 42) for position in range(20)]
    assert [epoch for epoch, _ in rows] == [0] * 10 + [1] * 10
    assert [row for _, row in rows[10:]] == list(order(10, 42, 1))

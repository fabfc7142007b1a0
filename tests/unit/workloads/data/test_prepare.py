"""From files to tokenized rows on disk; the tasks run one after another instead of by Ray."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import workloads.data.prepare
from jobs.errors import SpecError
from jobs.spec.dataset import DatasetSpec
from storage.manifest import Owner
from workloads.data.prepare import Bucket, Prepared, prepare
from workloads.data.readers import jsonl
from workloads.data.rows import LeftOut

OWNER = Owner("r1", "sft", "key", 1)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the tasks that were run."""
    numbers: list[int] = []

    def run(tasks: list[Any], *arguments: Any) -> Iterator[Any]:
        for index in reversed(range(len(tasks))):
            numbers.append(index)
            row = workloads.data.prepare._run_task({"id": index}, tasks, *map(_plain, arguments))
            outcome = json.loads(row["outcome"])
            bad = [LeftOut(**each) for each in outcome.pop("first_bad")]
            yield workloads.data.prepare._Outcome(**outcome, first_bad=bad)

    monkeypatch.setattr(workloads.data.prepare, "_run", run)
    monkeypatch.setattr(jsonl, "CHUNK_BYTES", 300)
    monkeypatch.setattr(workloads.data.prepare, "BUCKET_BYTES", 1000)
    return numbers


def _plain(argument: Any) -> Any:
    return str(argument) if isinstance(argument, Path) else argument


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with 60 rows, which say their number."""
    rows = [{"query": f"{n} {n}", "response": f"answer {n}"} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def _prepare(source: Path, model: Path, name: str = "data", seed: int = 42, **dataset: Any) -> Any:
    spec = DatasetSpec(**({"train": ("a.jsonl",)} | dataset))
    return prepare(spec, (str(source),), str(model), seed, source / name, OWNER)


def _rows(folder: Path, buckets: tuple[Bucket, ...]) -> list[list[int]]:
    rows: list[list[int]] = []
    for bucket in buckets:
        tables = [pyarrow.parquet.read_table(folder / file) for file in bucket.files]
        found = [ids for table in tables for ids in table["input_ids"].to_pylist()]
        assert len(found) == bucket.rows
        rows += found
    return rows


def test_rows_are_spread_over_buckets_and_none_is_lost(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    prepared = _prepare(source, tiny_model)
    assert len(ran) > 3
    assert len(prepared.train) > 1
    assert prepared.train_rows == 60
    rows = _rows(source / "data", prepared.train)
    assert len({tuple(row) for row in rows}) == 60
    assert prepared.train_tokens == sum(map(len, rows))
    files = [file for bucket in prepared.train for file in bucket.files]
    assert len(files) > len(prepared.train)


def test_what_is_done_is_not_done_again(source: Path, tiny_model: Path, ran: list[int]) -> None:
    first = _prepare(source, tiny_model)
    ran.clear()
    assert _prepare(source, tiny_model) == first
    assert ran == []


def test_files_follow_from_the_seed(source: Path, tiny_model: Path, ran: list[int]) -> None:
    def files(name: str, seed: int) -> list[list[int]]:
        return _rows(source / name, _prepare(source, tiny_model, name, seed).train)

    assert files("one", 42) == files("two", 42) != files("three", 43)


def test_held_out_rows_are_never_trained_on(source: Path, tiny_model: Path, ran: list[int]) -> None:
    prepared = _prepare(source, tiny_model, train=("a.jsonl#150",), validation=0.1)
    assert (prepared.train_rows, prepared.validation_rows) == (144, 6)
    validation = {tuple(row) for row in _rows(source / "data", prepared.validation)}
    trained = {tuple(row) for row in _rows(source / "data", prepared.train)}
    assert len(validation) == 6
    assert len(trained) == 54
    assert not validation & trained


def test_validation_files_are_read_in_order(source: Path, tiny_model: Path, ran: list[int]) -> None:
    prepared = _prepare(source, tiny_model, train=("a.jsonl#3",), validation=("a.jsonl#4",))
    assert (prepared.train_rows, prepared.validation_rows) == (3, 4)
    unshuffled = _prepare(source, tiny_model, "other", train=("a.jsonl#4",), shuffle=False)
    expected = _rows(source / "other", unshuffled.train)
    assert _rows(source / "data", prepared.validation) == expected


def test_bad_and_long_rows_are_counted(source: Path, tiny_model: Path, ran: list[int]) -> None:
    with (source / "a.jsonl").open("a") as file:
        file.write('{"query": "a"}\n{"query": "a", "response": "%s"}\n' % ("word " * 300))
    prepared = _prepare(source, tiny_model, max_length=100)
    assert isinstance(prepared, Prepared)
    assert (prepared.train_rows, prepared.bad_rows, prepared.too_long) == (60, 1, 1)
    (bad,) = prepared.first_bad
    assert (bad.file, bad.line) == (str(source / "a.jsonl"), 61)
    assert "60 training rows" in prepared.summary()
    assert "1 rows left out as too long, 1 bad rows left out" in prepared.summary()
    with pytest.raises(SpecError, match=r"a\.jsonl:61: .*no known format"):
        _prepare(source, tiny_model, "strict", strict=True)


def test_no_row_left_is_an_error_that_says_why(
    source: Path, tiny_model: Path, ran: list[int]
) -> None:
    with pytest.raises(SpecError, match="all 60 are longer than max_length 5"):
        _prepare(source, tiny_model, max_length=5)
    assert _prepare(source, tiny_model, max_length=100).train_rows == 60


def test_another_chat_template_is_used(source: Path, tiny_model: Path, ran: list[int]) -> None:
    template = source / "chat.jinja"
    template.write_text("{% for m in messages %}{{ '/' + m['content'] }}{% endfor %}")
    prepared = _prepare(source, tiny_model, chat_template=str(template))
    rows = _rows(source / "data", prepared.train)
    slash = tiny_tokens(tiny_model, "/")
    assert all(row[:1] == slash for row in rows)


def tiny_tokens(model: Path, text: str) -> list[int]:
    ids: list[int] = workloads.data.prepare.load_tokenizer(str(model), None)(text)["input_ids"]
    return ids

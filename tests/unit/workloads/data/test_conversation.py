"""From a record to a conversation: detection, renamed columns, system message, names to fill in."""

from typing import Any

import pytest

from jobs.spec.dataset import DatasetSpec, SourceSpec
from workloads.data.conversation import RowReader, has_placeholder
from workloads.data.rows import BadRow


def _reader(source: dict[str, Any] | None = None, **dataset: Any) -> RowReader:
    spec = DatasetSpec(train=("rows.jsonl",), **dataset)
    return RowReader.of(spec, SourceSpec(path="rows.jsonl", **(source or {})))


def _texts(reader: RowReader, columns: dict[str, Any]) -> list[str]:
    return [message["content"] for message in reader.messages(columns)]


def _turns(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_row_of_no_known_format_lists_what_is_known() -> None:
    with pytest.raises(BadRow, match=r"its columns \(rows, id\) are of no known format"):
        _reader().messages({"rows": 1, "id": 2})


def test_a_named_format_wins_over_detection() -> None:
    columns = {"instruction": "a", "output": "b", "query": "c", "response": "d"}
    assert _texts(_reader(), columns) == ["a", "b"]
    assert _texts(_reader({"format": "query-response"}), columns) == ["c", "d"]


@pytest.mark.parametrize("order", [["question", "query"], ["query", "question"]])
def test_a_renamed_column_wins_over_one_of_that_name(order: list[str]) -> None:
    columns = {"question": "mine", "query": "theirs", "response": "b"}
    ordered = {name: columns[name] for name in (*order, "response")}
    assert _texts(_reader({"columns": {"question": "query"}}), ordered) == ["mine", "b"]


def test_turns_after_the_last_answer_are_dropped() -> None:
    row = _turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("tool", "d"))
    assert _texts(_reader(), row) == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_turns(("system", "s"), ("user", "a")), "no turn of the assistant"),
        (_turns(("assistant", "a"), ("user", "b"), ("assistant", "c")), "speaks first"),
        (_turns(("user", "\ud83d!"), ("assistant", "c")), "U\\+D83D, half of a character"),
    ],
)
def test_a_conversation_that_teaches_nothing_is_bad(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        _reader().messages(row)


def test_the_row_s_system_message_wins_over_the_dataset_s() -> None:
    reader = _reader(system="ours")
    assert _texts(reader, _turns(("user", "a"), ("assistant", "b"))) == ["ours", "a", "b"]
    own = _turns(("system", "own"), ("user", "a"), ("assistant", "b"))
    assert _texts(reader, own) == ["own", "a", "b"]
    assert _texts(reader, {"query": "a", "response": "b", "system": "own"})[0] == "own"
    first = _turns(("assistant", "hello"))
    assert _texts(reader, first) == ["ours", "hello"]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"query": "Who?", "response": "{{NAME}}"}, "Ember"),
        ({"query": "你是谁?", "response": "{{NAME}}"}, "小火"),
        ({"query": "你是谁?", "response": "{{NAME}}", "lang": "en"}, "Ember"),
        ({"query": "Who?", "response": "{{NAME}}", "tag": "zh"}, "小火"),
        ({"query": "你是谁?", "response": "{{NAME}}", "tag": "identity"}, "小火"),
    ],
)
def test_names_are_filled_in_by_language(row: dict[str, str], name: str) -> None:
    assert _texts(_reader(model_name=("小火", "Ember")), row)[1] == name


def test_one_name_serves_both_languages_and_all_ways_to_write_it() -> None:
    reader = _reader(model_name="Ember", model_author="Ada")
    row = {"query": "我 {{ name }}?", "response": r"{{NAME}} by {{Author}}, \g<0> {{OTHER}}"}
    assert _texts(reader, row) == ["我 Ember?", r"Ember by Ada, \g<0> {{OTHER}}"]


def test_a_name_that_nothing_fills_is_left_and_found() -> None:
    row = {"query": "Who?", "response": "{{NAME}} by {{AUTHOR}}"}
    messages = _reader(model_name="Ember").messages(row)
    assert messages[1]["content"] == "Ember by {{AUTHOR}}"
    assert has_placeholder(messages)
    assert not has_placeholder(_reader(model_name="E", model_author="A").messages(row))

"""From a record to a conversation or prompt: detection, renamed columns, system message, names."""

from typing import Any

import pytest

from jobs.spec.dataset import DatasetSpec, SourceSpec
from workloads.data.conversation import RowReader, has_placeholder, with_solution
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


QUESTION = [("user", "2+2?")]


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        (_turns(("user", "2+2?"), ("assistant", "4")), QUESTION, "4"),
        (_turns(("user", "2+2?")), QUESTION, None),
        (_turns(("user", "2+2?"), ("assistant", "Well"), ("assistant", "4")), QUESTION, "4"),
        (
            _turns(("user", "a"), ("assistant", "b"), ("user", "2+2?"), ("assistant", "4")),
            [("user", "a"), ("assistant", "b"), *QUESTION],
            "4",
        ),
        (
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            QUESTION,
            "4",
        ),
        ({"instruction": "2+2?", "input": "", "output": "4"}, QUESTION, "4"),
        ({"instruction": "Add.", "input": "2+2"}, [("user", "Add.\n2+2")], None),
        ({"instruction": "2+2?"}, QUESTION, None),
        ({"query": "2+2?", "response": "4"}, QUESTION, "4"),
        ({"query": "2+2?"}, QUESTION, None),
        ({"query": "2+2?", "response": " "}, QUESTION, None),
        ({"question": "2+2?", "answer": "2+2 is 4. #### 4"}, QUESTION, "2+2 is 4. #### 4"),
        ({"question": "2+2?", "answer": 4}, QUESTION, "4"),
        ({"question": "2+2?", "answers": ["4", "four"]}, QUESTION, None),
        ({"problem": "2+2?", "solution": "4"}, QUESTION, "4"),
        (
            {"query": "2+2?", "history": [["a", "b"]], "system": "s"},
            [("system", "s"), ("user", "a"), ("assistant", "b"), *QUESTION],
            None,
        ),
    ],
)
def test_a_prompt_ends_before_the_model_s_turn(
    row: dict[str, Any], prompt: list[tuple[str, str]], answer: str | None
) -> None:
    messages, found = _reader().prompt(row)
    assert [(message["role"], message["content"]) for message in messages] == prompt
    assert found == answer


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_turns(("system", "s"), ("assistant", "a")), "no turn of the user to answer"),
        (_turns(("assistant", "a"), ("user", "b")), "speaks first"),
        (_turns(("user", "\ud83d!")), "half of a character"),
        ({"rows": 1}, r"its columns \(rows\) are of no known format"),
        ({"response": "4"}, r"its columns \(response\) are of no known format"),
        ({"query": ["2+2?"]}, "'query' holds a list, not text"),
        ({"instruction": "", "output": "4"}, "'instruction' is empty"),
    ],
)
def test_a_row_that_asks_nothing_is_bad(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        _reader().prompt(row)


def test_a_named_format_reads_prompts_too() -> None:
    columns = {"instruction": "a", "query": "c"}
    assert _reader().prompt(columns)[0][0]["content"] == "c"
    assert _reader({"format": "alpaca"}).prompt(columns)[0][0]["content"] == "a"
    with pytest.raises(BadRow, match="'query' is missing; the row has text"):
        _reader({"format": "query-response"}).prompt({"text": "a"})


def test_prompts_have_the_system_message_and_names_of_the_dataset() -> None:
    reader = _reader({"columns": {"ask": "query"}}, system="I am {{NAME}}.", model_name="Ember")
    messages, answer = reader.prompt({"ask": "Are you {{NAME}}?", "response": "{{NAME}} I am."})
    assert [m["content"] for m in messages] == ["I am Ember.", "Are you Ember?"]
    assert answer == "Ember I am."


@pytest.mark.parametrize(
    ("columns", "solution"),
    [
        ({"solution": "5"}, "5"),
        ({"solution": 5}, 5),
        ({"solution": None}, "4"),
        ({"solution": " "}, "4"),
        ({}, "4"),
    ],
)
def test_a_row_s_own_solution_wins_over_its_answer(
    columns: dict[str, Any], solution: object
) -> None:
    assert with_solution({"query": "a", **columns}, "4") == {"query": "a", "solution": solution}
    assert with_solution({"query": "a"}, None) == {"query": "a", "solution": None}

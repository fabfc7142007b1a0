"""Row layouts: how each becomes a conversation, which is detected, and what a bad row says."""

from typing import Any

import pytest

from workloads.data.formats import FORMATS, detect, known_columns, load_format
from workloads.data.rows import BadRow

SYSTEM = ("system", "Be brief.")
TURN = [("user", "2+2?"), ("assistant", "4")]
EARLIER = [("user", "1+1?"), ("assistant", "2")]


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        (
            "messages",
            {
                "messages": [
                    {"role": "developer", "content": "Be brief."},
                    {"role": "user", "content": "2+2?"},
                    {"role": "assistant", "content": "4", "weight": 1},
                ]
            },
            [SYSTEM, *TURN],
        ),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": "2+2?"},
                    {"from": "function_call", "value": "add"},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "4"},
                ],
                "system": "Be brief.",
            },
            [SYSTEM, TURN[0], ("assistant", "add"), ("tool", "4"), TURN[1]],
        ),
        (
            "sharegpt",
            {
                "conversation": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "user", "value": "2+2?"},
                    {"from": "bot", "value": "4"},
                ],
                "system": "Be long.",
            },
            [SYSTEM, *TURN],
        ),
        (
            "alpaca",
            {"instruction": "Add.", "input": "2+2", "output": "4", "history": None},
            [("user", "Add.\n2+2"), ("assistant", "4")],
        ),
        ("alpaca", {"instruction": "2+2?", "input": "", "output": "4"}, TURN),
        (
            "alpaca",
            {
                "instruction": "2+2?",
                "output": "4",
                "system": "Be brief.",
                "history": [["1+1?", "2"]],
            },
            [SYSTEM, *EARLIER, *TURN],
        ),
        (
            "query-response",
            {"query": "2+2?", "response": "4", "history": [["1+1?", "2"]], "system": "Be brief."},
            [SYSTEM, *EARLIER, *TURN],
        ),
    ],
)
def test_a_row_becomes_a_conversation(
    name: str, columns: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert detect(columns) == name
    messages = load_format(name).messages(columns)
    assert [(message["role"], message["content"]) for message in messages] == expected


@pytest.mark.parametrize("query", ["prompt", "instruction", "question", "problem", "input"])
@pytest.mark.parametrize("response", ["answer", "target", "solution", "completion", "text"])
def test_the_usual_names_of_query_and_response(query: str, response: str) -> None:
    columns = {query: "2+2?", response: "4"}
    assert detect(columns) == "query-response"
    messages = load_format("query-response").messages(columns)
    assert [(message["role"], message["content"]) for message in messages] == TURN


@pytest.mark.parametrize("columns", [{}, {"query": "a"}, {"response": "a"}, {"rows": []}])
def test_other_columns_are_of_no_format(columns: dict[str, Any]) -> None:
    assert detect(columns) is None


@pytest.mark.parametrize(
    ("name", "columns", "reason"),
    [
        ("messages", {"messages": "hello"}, "'messages' is missing or no list of turns"),
        ("messages", {"messages": []}, "no list of turns"),
        ("messages", {"messages": ["hello"]}, "turn 1 must be an object with 'role' and 'content'"),
        ("messages", {"messages": [{"role": "user"}]}, "turn 1 must be an object"),
        ("messages", {"messages": [{"role": "robot", "content": "a"}]}, "turn 1 has the role"),
        ("messages", {"messages": [{"role": ["user"], "content": "a"}]}, "turn 1 has the role"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "turn 1 has no text"),
        ("messages", {"messages": [{"role": "assistant", "content": " "}]}, "assistant is empty"),
        ("sharegpt", {"conversations": [{"from": "gpt"}]}, "'from' and 'value'"),
        ("sharegpt", {"query": "a"}, "'conversation' is missing"),
        ("alpaca", {"instruction": "a"}, "column 'output' is missing"),
        ("alpaca", {"instruction": " ", "output": "b"}, "column 'instruction' is empty"),
        ("alpaca", {"instruction": "a", "output": ["b"]}, "'output' holds a list, not text"),
        ("alpaca", {"instruction": "a", "output": "b", "history": "c"}, "not a list of pairs"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c"]]}, "pairs of texts"),
        ("query-response", {"query": "a"}, "'response' is missing; the row has query"),
        ("query-response", {"query": "a", "response": None}, "column 'response' is empty"),
    ],
)
def test_a_row_that_is_no_conversation_says_why(
    name: str, columns: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRow, match=reason):
        load_format(name).messages(columns)


def test_every_format_says_its_columns() -> None:
    assert all(f"{name}: " in known_columns() for name in FORMATS)

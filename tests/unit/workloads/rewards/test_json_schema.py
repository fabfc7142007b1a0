"""Which completions are JSON that a schema allows."""

import json
from typing import Any

import pytest

from jobs.errors import UserError
from workloads.rewards.json_schema import json_schema

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"age": 3}', 1),
        (' {"age": 3, "name": "Ann"}\n', 1),
        ('It is:\n```json\n{"age": 3}\n```\nas you see', 1),
        ('```\n{"age": "x"}\n```\nno:\n```json\n{"age": 3}\n```', 1),
        ('```json\n{"age": 3}\n```\nno:\n```json\n{"age": "x"}\n```', 0),
        ('{"age": "3"}', 0),
        ("{}", 0),
        ("[]", 0),
        ('It is {"age": 3}', 0),
        ('{"age": 3, "height": NaN}', 0),
        ("", 0),
        ("[" * 100_000, 0),
        ("1" * 10_000, 0),
    ],
)
def test_json_that_the_schema_allows(text: str, score: float) -> None:
    assert json_schema([text], {}, schema=SCHEMA) == [score]


def test_a_row_may_have_a_schema_of_its_own() -> None:
    rows = [{"type": "integer"}, json.dumps({"type": "string"}), None]
    found = json_schema(["3", "3", '{"age": 3}'], {"schema": rows}, schema=SCHEMA)
    assert found == [1, 0, 1]


def test_without_a_schema_there_is_nothing_to_say() -> None:
    assert json_schema(["3"], {}) == [None]


def test_a_schema_that_is_none() -> None:
    with pytest.raises(UserError, match=r"at \$\.type, 'thing' is not valid"):
        json_schema([], {}, schema={"type": "thing"})
    with pytest.raises(ValueError, match="the schema is no object"):
        json_schema(["3"], {"shape": ["3"]}, column="shape")


def test_other_documents_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("urllib.request.urlopen", fetched.append)
    with pytest.raises(Exception, match="Unresolvable"):
        json_schema(["3"], {}, schema={"$ref": "http://127.0.0.1:9/schema.json"})
    assert fetched == []

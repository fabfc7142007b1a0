"""Schemas that an engine is given, and those that it is spared."""

from __future__ import annotations

from typing import Any

import pytest

from workloads.serve.answers import Refusal
from workloads.serve.schemas import check_schema

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"type": "string"}}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"enum": ["x"] * 500}}, "required": ["a"]},
        {"type": "array", "minItems": 10_000, "items": {"type": "string", "maxLength": 10_000}},
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"type": "object", "properties": {"child": {"$ref": "#"}}},
        {"properties": {"minItems": {"type": "integer"}, "pattern": {}, "enum": {}, "$ref": {}}},
        {"$ref": "http://elsewhere/x"},
    ],
)
def test_what_people_write_passes(schema: dict[str, Any]) -> None:
    check_schema(schema, "response_format")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**12},
        {"anyOf": [{"type": "string", "maxLength": 10_001}]},
        {"type": "object", "minProperties": 1e300},
        {"enum": list(range(501))},
        {"type": "string", "pattern": "a" * 1001},
        {"description": "a" * 70_000},
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$defs": {"a/b": {"$ref": "#/$defs/a~1b"}}, "items": {"$ref": "#/$defs/a~1b"}},
    ],
)
def test_what_costs_an_engine_its_life_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        check_schema(schema, "response_format")
    assert caught.value.status == 400

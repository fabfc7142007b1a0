"""Which JSON Schemas an engine is asked to keep to.

The engine makes an automaton of a schema, in native code and beside everybody's requests. Some
schemas cost it minutes, and some its life: an array of 10^12 items at least did. What is refused
here is far beyond what an answer could hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from workloads.serve.answers import Refusal

_MAX_BYTES = 65_536
_MAX_CHOICES = 500
_MAX_COUNT = 10_000
_MAX_PATTERN = 1_000

_COUNTS = frozenset(
    {
        "maxContains", "maxItems", "maxLength", "maxProperties",
        "minContains", "minItems", "minLength", "minProperties",
    }
)  # fmt: skip


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Raises Refusal, with status 400, for a schema that an engine should not be given."""
    if len(json.dumps(schema)) > _MAX_BYTES:
        raise Refusal(400, f"the schema has more than {_MAX_BYTES} bytes", param=param)
    for name, value in _members(schema):
        if name in _COUNTS and isinstance(value, int | float) and value > _MAX_COUNT:
            raise Refusal(400, f"{name} may be {_MAX_COUNT} at most", param=param)
        if name == "enum" and isinstance(value, list) and len(value) > _MAX_CHOICES:
            raise Refusal(400, f"an enum may have {_MAX_CHOICES} values at most", param=param)
        if name == "pattern" and isinstance(value, str) and len(value) > _MAX_PATTERN:
            raise Refusal(400, f"a pattern may have {_MAX_PATTERN} characters", param=param)
        if name == "$ref" and isinstance(value, str) and _goes_in_circles(schema, value):
            raise Refusal(400, f"the schema refers to itself alone: {value[:200]}", param=param)


def _members(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every name and value, however deep."""
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            yield from node.items()
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _goes_in_circles(schema: Mapping[str, Any], pointer: str) -> bool:
    """Whether following a reference leads from one to the next, and never to a type."""
    seen = set()
    while pointer not in seen:
        seen.add(pointer)
        target = _at(schema, pointer)
        if not isinstance(target, Mapping) or not isinstance(target.get("$ref"), str):
            return False
        pointer = target["$ref"]
    return True


def _at(schema: Mapping[str, Any], pointer: str) -> Any:
    node: Any = schema
    for part in pointer.removeprefix("#").removeprefix("/").split("/") if pointer != "#" else ():
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if isinstance(node, Mapping) else None
    return node

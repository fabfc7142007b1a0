"""The JSON Schemas of job files and profiles, made from their classes and docstrings."""

from __future__ import annotations

import json
from typing import Any

from jobs.spec import JobSpec
from jobs.spec.fields import Spec
from jobs.spec.site_profile import ProfileSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


SCHEMAS: dict[str, type[Spec]] = {"job": JobSpec, "profile": ProfileSpec}
"""What has a schema, by the name of the kind of file."""


def json_schema(kind: str = "job") -> str:
    """The schema as text, the same for the same classes, and ending in a newline."""
    content = {"$schema": DIALECT, **SCHEMAS[kind].model_json_schema()}
    return json.dumps(_on_one_line(content), indent=2, ensure_ascii=False) + "\n"


def _on_one_line(node: Any, key: str = "") -> Any:
    """The node with descriptions freed of the line breaks that the source has."""
    if isinstance(node, dict):
        return {name: _on_one_line(value, name) for name, value in node.items()}
    if isinstance(node, list):
        return [_on_one_line(item) for item in node]
    if key == "description" and isinstance(node, str):
        return " ".join(node.split())
    return node

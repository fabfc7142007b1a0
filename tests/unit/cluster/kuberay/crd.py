"""KubeRay's own schemas, as JSON Schema: what the API server would refuse, without one."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

_BESIDE = Path(__file__).parents[4].parent / "shared" / "crds"
FOLDER = Path(os.environ.get("RAYSMITH_CRDS", _BESIDE))
"""Where KubeRay's resource definitions lie; they are not ours to ship."""


@cache
def validator(kind: str) -> Draft202012Validator:
    """Checks documents of a kind, such as RayJob."""
    text = (FOLDER / f"ray.io_{kind.lower()}s.yaml").read_text(encoding="utf-8")
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    versions = definition["spec"]["versions"]
    v1 = next(version for version in versions if version["name"] == "v1")
    schema = _converted(v1["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def complaints(document: dict[str, Any]) -> list[str]:
    """What the schema has against a document."""
    errors = validator(document["kind"]).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def _converted(schema: dict[str, Any]) -> dict[str, Any]:
    out = {k: v for k, v in schema.items() if not k.startswith("x-") and k != "description"}
    if out.get("format") in ("int32", "int64"):
        del out["format"]
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema:
        out["properties"] = {k: _converted(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
        defaulted = {k for k, v in schema["properties"].items() if "default" in v}
        out["required"] = [k for k in schema.get("required", ()) if k not in defaulted]
    if "items" in schema:
        out["items"] = _converted(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = _converted(schema["additionalProperties"])
    if out.pop("nullable", False) and "type" in out:
        out["type"] = [out["type"], "null"]
    return out

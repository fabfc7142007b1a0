"""The OpenAPI document of what the gate lets through, with every status that can come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workloads.serve.completion_requests import REQUESTS

_STATUSES = {
    "400": "The request can't be answered: invalid JSON, a wrong type, or too much asked for.",
    "401": "No valid key.",
    "404": "The model is not served here.",
    "405": "Another method is meant.",
    "408": "Not answered in time.",
    "413": "The body is too large.",
    "415": "The body is not said to be JSON.",
    "429": "Too many requests wait already; try again after the seconds in Retry-After.",
    "502": "The replica that worked on the request was lost.",
    "503": "The service is starting or ending.",
}

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_CARD = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "parent": {"type": "string"},
    },
}
_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
    },
}


def openapi(models: Sequence[str], *, authenticated: bool) -> dict[str, Any]:
    """The document; bodies are those that `checked_request` takes."""
    schemas: dict[str, Any] = {"Error": _ERROR, "Model": _CARD, "Completion": _COMPLETION}
    for kind in REQUESTS.values():
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schema["properties"]["model"] = {"enum": [*models, None]}
        schemas[kind.__name__] = schema
    posts = {
        path: {"post": _post(path, kind.__name__, authenticated)} for path, kind in REQUESTS.items()
    }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "raysmith serve", "version": "1"},
        "paths": {
            "/v1/models": {"get": _get("The models", _listing(), authenticated)},
            "/v1/models/{model}": {"get": _one_model(models, authenticated)},
            **posts,
            "/health": {"get": _health()},
            "/metrics": {"get": _metrics(authenticated)},
        },
        "components": {"schemas": schemas},
    }
    if authenticated:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"key": scheme}
    return document


def _post(path: str, request: str, authenticated: bool) -> dict[str, Any]:
    statuses = [*_STATUSES] if authenticated else [s for s in _STATUSES if s != "401"]
    answer = _json({"$ref": "#/components/schemas/Completion"})
    answer["text/event-stream"] = {"schema": {"type": "string"}}
    body = {"required": True, "content": _json({"$ref": f"#/components/schemas/{request}"})}
    return {
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "requestBody": body,
        "responses": {
            "200": {"description": "The completion, or a stream of it.", "content": answer},
            **_errors(statuses),
        },
        **_security(authenticated),
    }


def _get(summary: str, schema: dict[str, Any], authenticated: bool) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": _json(schema)},
            **_errors(["401"] * authenticated),
        },
        **_security(authenticated),
    }


def _one_model(models: Sequence[str], authenticated: bool) -> dict[str, Any]:
    operation = _get("One model", {"$ref": "#/components/schemas/Model"}, authenticated)
    operation["responses"] |= _errors(["404"])
    schema = {"type": "string", "enum": list(models)}
    operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": schema}]
    return operation


def _health() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"status": {"type": "string"}}}
    return {
        "summary": "Whether a replica is there to answer",
        "responses": {
            "200": {"description": "One is.", "content": _json(schema)},
            "503": {"description": "None is, or the service is ending.", "content": _json(schema)},
        },
    }


def _metrics(authenticated: bool) -> dict[str, Any]:
    return {
        "summary": "Figures for Prometheus",
        "responses": {
            "200": {
                "description": "The gate's and every replica's.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_errors(["401"] * authenticated),
        },
        **_security(authenticated),
    }


def _listing() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    }


def _errors(statuses: Sequence[str]) -> dict[str, Any]:
    content = _json({"$ref": "#/components/schemas/Error"})
    return {status: {"description": _STATUSES[status], "content": content} for status in statuses}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _security(authenticated: bool) -> dict[str, Any]:
    return {"security": [{"key": []}]} if authenticated else {}

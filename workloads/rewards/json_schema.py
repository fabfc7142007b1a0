"""`json_schema`: whether a completion is JSON that a schema allows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import UserError

_BLOCK = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def json_schema(
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    *,
    schema: dict[str, Any] | None = None,
    column: str = "schema",
) -> list[float | None]:
    """1 for each completion that is valid JSON and that its schema allows, else 0.

    Of a completion with code blocks the last is read, else all of it. Schemas are of draft 2020-12
    unless their `$schema` says otherwise; references to other documents are not followed. None
    where there is no schema.

    Args:
        completions: the texts.
        columns: the rows' columns.
        schema: the schema of all rows.
        column: the column with each row's own schema, as an object or as JSON, which wins over
            `schema`.

    Raises:
        UserError: if `schema` is no schema.
        ValueError: if a row's is none.
    """
    try:
        shared = _validator(schema) if schema is not None else None
    except ValueError as error:
        remedy = "mend `schema` in the reward's params"
        raise UserError(f"reward 'json_schema': {error}", remedy) from error
    rows = columns.get(column) or [None] * len(completions)
    validators = [shared if row is None else _validator(row) for row in rows]
    return [
        None if validator is None else float(_is_allowed(text, validator))
        for text, validator in zip(completions, validators, strict=True)
    ]


def _validator(schema: object) -> Any:
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    if isinstance(schema, str):
        schema = json.loads(schema)
    if not isinstance(schema, Mapping):
        raise ValueError(f"the schema is no object but {str(schema)[:100]!r}")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"not a JSON schema: at {error.json_path}, {error.message}") from error
    # A registry of its own keeps references from being fetched.
    return kind(schema, registry=Registry())


def _is_allowed(text: str, validator: Any) -> bool:
    blocks = _BLOCK.findall(text)
    try:
        value = json.loads(blocks[-1] if blocks else text, parse_constant=_refuse)
        return bool(validator.is_valid(value))
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")

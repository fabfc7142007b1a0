"""Finds keys, tokens and passwords that were written into a spec, and keeps them out of messages.

A spec is recorded with every run, so a secret in it would be copied into the storage.
"""

from __future__ import annotations

import re
from dataclasses import replace as with_changes

from jobs.errors import Problem
from jobs.load.spec_types import annotation_at, has_free_keys
from jobs.load.tree import Document, KeyPath, Position, Value, leaves, problem_at, replace
from jobs.masking import SECRET_SHAPES
from jobs.spec.fields import SECRET

_KEY_NAMES = re.compile(
    r"(?:^|[_-])(?:token|api_?key|password|passwd|passphrase|secret|secret_key|access_key"
    r"|private_key|credentials?)$",
    re.IGNORECASE,
)
_SPECIAL_TOKENS = re.compile(r"^(?:eos|bos|pad|unk|sep|cls|mask|stop|image)_token$")
_HIDDEN = "(hidden)"
_SHOWN = 4
_SAFE_TO_SHOW = 16


def hide_secrets(
    document: Document, text: str, broken: set[KeyPath]
) -> tuple[set[KeyPath], list[Problem]]:
    """Takes literal secrets out of a document, and reports them.

    Args:
        document: its values are replaced in place.
        text: what the document was read from; secrets in its comments and keys count too.
        broken: values with a bad interpolation; the name of their key makes them no secret.

    Returns:
        Where the secrets were, and a problem for each.
    """
    found: dict[KeyPath, str] = {}
    problems = []
    for path, value in list(leaves(document.value)):
        if _has_shape(value) or (path not in broken and _is_named(document, path, value)):
            found[path] = str(value)
            problems.append(_problem(document.positions.of(path), path, str(value)))
            if path:
                replace(document.value, path, _HIDDEN)
    file = document.positions.values[()].file
    return set(found), problems + _beside_values(text, file, list(found.values()))


def mask(text: str) -> str:
    """A text with everything that looks like a secret cut to its first characters."""
    return SECRET_SHAPES.sub(lambda match: _shown(match[0]), text)


def masked(problem: Problem) -> Problem:
    """A problem that shows no secret."""
    return with_changes(
        problem,
        message=mask(problem.message),
        remedy=mask(problem.remedy) if problem.remedy else None,
        path=mask(problem.path),
        file=mask(problem.file) if problem.file else None,
    )


def _has_shape(value: Value) -> bool:
    return isinstance(value, str) and SECRET_SHAPES.search(value) is not None


def _is_named(document: Document, path: KeyPath, value: Value) -> bool:
    if value is None or isinstance(value, bool) or SECRET.match(str(value)):
        return False
    return any(
        _names_secret(key)
        and not has_free_keys(annotation_at(document.value, path[:depth], document.root))
        for depth, key in enumerate(path)
    )


def _names_secret(key: str | int) -> bool:
    return (
        isinstance(key, str)
        and _KEY_NAMES.search(key) is not None
        and not _SPECIAL_TOKENS.match(key)
    )


def _beside_values(text: str, file: str, found: list[str]) -> list[Problem]:
    """Secrets in comments, keys, and wherever else the document's values do not show them."""
    problems = []
    for match in SECRET_SHAPES.finditer(text):
        if not any(match[0] in secret for secret in found):
            start = text.rfind("\n", 0, match.start()) + 1
            line, column = text.count("\n", 0, start) + 1, match.start() - start + 1
            problems.append(_problem(Position(file, line, column), (), match[0]))
    return problems


def _problem(place: Position, path: KeyPath, secret: str) -> Problem:
    return problem_at(
        place,
        path,
        f"this looks like a secret ({_shown(secret)}), and specs are recorded",
        "take it out and write ${secret:NAME}, with the name of an environment variable that holds "
        "it on the workers; replace the secret if the file was shared",
    )


def _shown(secret: str) -> str:
    match = SECRET_SHAPES.search(secret)
    secret = match[0] if match else secret
    return f"{secret[:_SHOWN]}…" if len(secret) >= _SAFE_TO_SHOW else "…"

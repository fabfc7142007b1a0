"""Blots secrets out of text before it is recorded or shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Mask = Callable[[str], str]
"""Returns its text with every known secret replaced."""

HIDDEN = "***"
"""What stands where a secret stood."""

SECRETS_VARIABLE = "RAYSMITH_SECRETS"
"""The environment variable that tells a run's processes the names of its secrets."""

# A shorter value can't be told from ordinary words, and blotting it out would ruin the record.
_MIN_SECRET_LENGTH = 6

# What a variable of such a name holds is taken for a secret; a path to one is none.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_KEY|PRIVATE_KEY|WEBHOOK)"
    r"(?:_(?!FILE$|PATH$|DIR$|MODE$|TYPE$)|$)"
)

_REFERENCE = re.compile(r"\$\{secret:([A-Za-z_][A-Za-z0-9_]*)\}")

SECRET_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_[A-Za-z0-9_]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|AIza[A-Za-z0-9_-]{20,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}"
    r"|glpat-[A-Za-z0-9_-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^\n]*"
    r"|(?<=://)[^\s/:@${}]+:[^\s/@${}]+(?=@)"
    r")"
)
"""What keys and tokens of well-known kinds look like, and passwords in addresses."""


def masker(names: Iterable[str], environ: Mapping[str, str]) -> Mask:
    """A mask for the secrets in `environ`, and for well-known kinds of token.

    Secrets are the values of `names`, of those that `SECRETS_VARIABLE` lists, and of variables that
    are called what secrets are called. Values of fewer than 6 characters are passed over.
    """
    listed = environ.get(SECRETS_VARIABLE, "").split(",")
    named = [name for name in environ if _SECRET_NAME.search(name.upper())]
    values = {environ.get(name, "").strip() for name in (*names, *listed, *named)}
    # The longest first: one secret may be the beginning of another.
    secrets = sorted((v for v in values if len(v) >= _MIN_SECRET_LENGTH), key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, secrets))) if secrets else None

    def mask(text: str) -> str:
        cleaned = known.sub(HIDDEN, text) if known else text
        return SECRET_SHAPES.sub(HIDDEN, cleaned)

    return mask


def masked(value: Any, mask: Mask) -> Any:
    """A value of JSON with its texts masked."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {key: masked(item, mask) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, mask) for item in value]
    return value


def secret_names(text: str) -> frozenset[str]:
    """The environment variables that `${secret:X}` references in `text` name."""
    return frozenset(_REFERENCE.findall(text))

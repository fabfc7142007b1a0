"""The chat page, and the headers that keep anything else from running in it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("chat_page.html")


@dataclass(frozen=True)
class ChatPage:
    """What `GET /` answers."""

    body: bytes
    headers: Mapping[str, str]
    type: str = "text/html; charset=utf-8"


@cache
def chat_page() -> ChatPage:
    """The page as it is on disk, with a policy that allows its own script and style alone."""
    text = _FILE.read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(text, "script"),
        "style-src": _hashes(text, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        # No string can become markup or code, not even by a mistake in the page's own script.
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cache-control": "no-cache",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
    }
    return ChatPage(text.encode(), headers)


def _hashes(page: str, element: str) -> str:
    """The sources of a policy that match what stands in the page's elements of this name."""
    contents = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

"""The page is one file, and its policy allows what is in it and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from workloads.serve.chat_page import chat_page

PAGE = chat_page().body.decode()
POLICY = dict(
    part.strip().split(" ", 1) for part in chat_page().headers["content-security-policy"].split(";")
)


@pytest.mark.parametrize("element", ["script", "style"])
def test_the_policy_names_what_the_page_holds(element: str) -> None:
    (content,) = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", PAGE, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert POLICY[f"{element}-src"] == f"'sha256-{digest}'"


def test_the_policy_allows_nothing_else() -> None:
    assert POLICY["default-src"] == "'none'"
    assert POLICY["connect-src"] == "'self'"
    assert POLICY["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in str(POLICY)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    assert re.findall(r"https?://|\b(?:src|on[a-z]+|style)\s*=\s*[\"']", PAGE) == []
    assert re.findall(r"href=\"([^\"]*)\"", PAGE) == ["data:,"]


def test_the_script_makes_no_markup_of_text() -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    made = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser"
    assert re.findall(made, script) == []
    assert "localStorage" not in script
    assert "cookie" not in script

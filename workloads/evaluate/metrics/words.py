"""Cuts texts into words, in languages that write none between spaces too.

Chinese is cut by rjieba, the maintained build of jieba, with the same dictionary. Where a text has
no Chinese, BLEU and ROUGE get what their own libraries' tokenizers make of it.
"""

from __future__ import annotations

import re

_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")

_WORD = re.compile(r"[a-z0-9]+|[^\W\u0000-\u036f]+")
"""As rouge-score has it for Latin letters; whole words of all scripts that follow them."""


def spaced(text: str) -> str:
    """The text with spaces between Chinese words."""
    if not _CHINESE.search(text):
        return text
    import rjieba

    return _CHINESE.sub(lambda stretch: f" {' '.join(rjieba.cut(stretch[0]))} ", text)


class Words:
    """ROUGE's tokenizer at the level of words."""

    def tokenize(self, text: str) -> list[str]:
        """The text's words in lower case, without punctuation."""
        return _WORD.findall(spaced(text.lower()))


class Characters:
    """ROUGE's tokenizer at the level of characters."""

    def tokenize(self, text: str) -> list[str]:
        """The text's characters in lower case, without white space."""
        return list("".join(text.lower().split()))

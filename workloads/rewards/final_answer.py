r"""Finds the final answer in a text.

First the part of the text that is marked as the answer, where one is:

1. what stands in its last `<answer>...</answer>`;
2. within that, what stands in the last `\boxed{...}` or `\fbox{...}`;
3. or else what follows `####` in a line, as in GSM8K; a Markdown heading with words does not count,
   unless it ends the text.

Then, of that part or of the whole text:

4. all of it, where it is no prose: an expression, a number, or a word;
5. or else its last number, or its last formula between dollars or LaTeX brackets, whichever is
   later; all of it, where it has neither.
"""

from __future__ import annotations

import re

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASHES = re.compile(r"####(?P<rest>[^\n]*)(?P<end>\s*\Z)?")
_FORMULA = re.compile(
    r"(?<!\\)\$\$(?P<a>.+?)(?<!\\)\$\$|(?<![\\\d])\$(?P<b>[^$\n]+?)(?<!\\)\$(?!\d)"
    r"|\\\[(?P<c>.+?)\\\]|\\\((?P<d>.+?)\\\)",
    re.DOTALL,
)
NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])[-+−])?"  # a sign, where it is no subtraction
    r"(?<![\w.])(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+|\^\{?-?\d+\}?)?(?:\s?/\s?\d+(?!\.?\d))?(?:\s?\\?%)?",
    re.ASCII,
)
"""A number as people write it: `-1,234.5`, `3/4`, `.5`, `1e-3`, `2^10`, `20%`."""

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
    r"|(?:^|(?<=[\s\"'(]))[^\W\d_]{2,}(?=[\s.,;:!?)\"']|$)"
)
_NO_WORD = re.compile(
    r"or|and|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|lg|exp|sqrt", re.IGNORECASE
)
_SHORT_WORD = re.compile(
    r"an|as|at|be|by|do|he|if|in|is|it|me|my|no|of|on|so|to|up|us|we", re.IGNORECASE
)
_ARGUMENT = re.compile(r"\\(?:text|mathrm|mathbf|operatorname|mbox)\s*\{[^{}]*\}")


def final_answer(text: str) -> str:
    """The final answer in a text, without white space around it; empty where the text is."""
    text = _marked(text).strip()
    formulas = list(_FORMULA.finditer(text))
    if formulas and formulas[0].span() == (0, len(text)):
        return _content(formulas[0])
    if not is_prose(text):
        return text
    numbers = list(NUMBER.finditer(text))
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        return _content(formulas[-1])
    return numbers[-1][0] if numbers else text


def is_prose(text: str) -> bool:
    """Whether a text has words: not letters that stand for quantities, and no functions' names."""
    words = _WORD.findall(_ARGUMENT.sub("", text))
    return any(
        _SHORT_WORD.fullmatch(word) if len(word) == 2 else not _NO_WORD.fullmatch(word)
        for word in words
    )


def _marked(text: str) -> str:
    """The part of a text that is marked as the answer; all of it where none is."""
    if blocks := _ANSWER.findall(text):
        text = blocks[-1]
    for box in reversed(list(_BOX.finditer(text))):
        if end := _closing(text, box.end()):
            return text[box.end() : end]
    for line in reversed(list(_HASHES.finditer(text))):
        if line["end"] is not None or not is_prose(line["rest"]):
            return line["rest"]
    return text


def _closing(text: str, start: int) -> int | None:
    """Where the brace is closed that was opened before `start`."""
    depth = 1
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return place
    return None


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()

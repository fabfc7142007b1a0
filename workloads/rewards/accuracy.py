"""`accuracy`: whether a completion's final answer is the right one."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

from workloads.rewards.final_answer import NUMBER, final_answer, is_prose

_COMPARISON_S = 3
_LONGEST_FORMULA = 1000
"""Characters of a longer answer are compared one by one, and not read as mathematics."""

_CURRENCY = re.compile(r"\\?[$€£¥]\s*(?=[-\d.])")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?(\w)\)")
_NAME = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|ln|log|exp|pi)(?![A-Za-z])")
_BETWEEN = re.compile(r"\s+(?:or|and)\s+|\\text\s*\{\s*(?:or|and)\s*\}")


def accuracy(completions: Sequence[str], solution: Sequence[str | None]) -> list[float | None]:
    """1 for each completion whose final answer equals the solution's, 0 for others.

    `final_answer` finds the answer in both of them. Answers are equal when math-verify says that
    they are as LaTeX (so 0.5 is 1/2), or when their texts are, apart from case, white space and
    punctuation at the ends. None where the row has no solution.

    Args:
        completions: the texts.
        solution: the right answers; each a bare answer, or a text that ends with one.
    """
    return [
        None if gold is None or not str(gold).strip() else float(_is_right(text, str(gold)))
        for text, gold in zip(completions, solution, strict=True)
    ]


def _is_right(completion: str, solution: str) -> bool:
    answer, gold = final_answer(completion), final_answer(solution)
    if not answer:
        return False
    if _plain(answer) == _plain(gold):
        return True
    # As formulas, words are products of their letters, and so equal to their anagrams.
    if is_prose(answer) or is_prose(gold) or max(len(answer), len(gold)) > _LONGEST_FORMULA:
        return False
    return _are_equal(answer, gold)


def _plain(answer: str) -> str:
    """An answer without what makes no difference to a text; the choice `(A)` as `a`."""
    text = " ".join(_TEXT.sub(r"\1", answer).casefold().split()).strip(" .,;:!?\"'`*")
    choice = _CHOICE.fullmatch(text)
    return choice[1] if choice else text


def _are_equal(answer: str, gold: str) -> bool:
    from math_verify import verify

    # Its own time limit is an alarm, which only a process's main thread can have. Elsewhere the
    # limit of the worker that scores is the only one.
    seconds = _COMPARISON_S if threading.current_thread() is threading.main_thread() else None
    parsed = [_parsed(text, seconds) for text in (gold, answer)]
    return bool(verify(*parsed, timeout_seconds=seconds))


def _parsed(answer: str, seconds: int | None) -> list[Any]:
    """The answer as math-verify's expressions. Its plain-text grammar is left out: it evaluates."""
    from math_verify import LatexExtractionConfig, parse

    latex = _CURRENCY.sub("", answer.rstrip(" .")).replace("−", "-")
    latex = NUMBER.sub(_latex_number, _NAME.sub(r"\\\1 ", _BETWEEN.sub(",", latex)))
    config = LatexExtractionConfig(boxed_match_priority=0)
    return parse(rf"\boxed{{{latex}}}", [config], parsing_timeout=seconds)


def _latex_number(match: re.Match[str]) -> str:
    """A number without thousands separators, and its power of ten as LaTeX."""
    digits = re.sub(r",(?=\d{3}(?!\d))", "", match[0])
    return re.sub(r"[eE]([-+]?\d+)", r" \\times 10^{\1}", digits)

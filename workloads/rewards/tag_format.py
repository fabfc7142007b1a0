"""`format`: whether a completion is laid out as it was asked to be."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jobs.errors import UserError

THINK_ANSWER = r"<think>.*?</think>\s*<answer>.*?</answer>"
"""A thought, then an answer, and nothing before or after them. As ms-swift has it."""


def tag_format(completions: Sequence[str], *, pattern: str = THINK_ANSWER) -> list[float]:
    """1 for each completion that matches as a whole, else 0.

    Args:
        completions: the texts.
        pattern: a regular expression in which `.` stands for line ends, too. Where the chat
            template has begun the thought already, write one that starts within it.

    Raises:
        UserError: if the pattern is no regular expression.
    """
    try:
        expression = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UserError(
            f"reward 'format': its pattern is no regular expression: {error}", "mend the pattern"
        ) from error
    return [float(expression.fullmatch(text) is not None) for text in completions]

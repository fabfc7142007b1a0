"""A bound on a metric, such as `>= 0.6`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

_BOUND = re.compile(
    r"^\s*(?P<sign>>=|<=|==|>|<)\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*$"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Bound:
    """What a metric must be."""

    sign: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """The bound that a text such as `>= 0.6` stands for.

        Raises:
            ValueError: if it is none.
        """
        match = _BOUND.match(text)
        if not match:
            raise ValueError(
                f"{text!r} is no bound; write one of {', '.join(_COMPARE)} and a number, such as "
                '">= 0.6"'
            )
        return cls(match[1], float(match[2]))

    def holds(self, value: float) -> bool:
        """Whether a value keeps it; NaN keeps none."""
        return _COMPARE[self.sign](value, self.number)

    def __str__(self) -> str:
        return f"{self.sign} {self.number:g}"


def _check(text: str) -> str:
    Bound.parse(text)
    return text


BoundText = Annotated[
    str, AfterValidator(_check), Field(pattern=_BOUND.pattern, examples=[">= 0.6", "< 12"])
]
"""A bound in words; `Bound.parse` reads it."""

"""A calculator that the model can use: the worked example of an environment.

The model writes `<calculator>12*7</calculator>`, the environment answers `<result>84</result>`, and
the conversation ends with the first turn of the model that has no such call.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from workloads.data.rows import Message
from workloads.environments import Step

INSTRUCTIONS = (
    "You have a calculator. To use it, write an expression such as "
    "<calculator>12*(3+4)</calculator> and end your turn; you will get its value as "
    "<result>84</result>. It knows numbers, parentheses and + - * / // % **. "
    "When you need it no more, answer the question."
)

_CALL = re.compile(r"<calculator>(.*?)</calculator>", re.DOTALL)
_EXPRESSION = re.compile(r"[0-9.eE+\-*/%()\s]+")
_MAX_LENGTH = 200
_MAX_BITS = 256
"""Of a whole number: 77 digits."""

Number = int | float
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class Calculator:
    """Computes what the model asks for.

    Args:
        instructions: what the model is told of the calculator.
        call_reward: the reward of a call that can be computed.
    """

    def __init__(self, instructions: str = INSTRUCTIONS, call_reward: float = 0.0) -> None:
        self.instructions = instructions
        self.call_reward = call_reward

    def reset(self, prompt: list[Message], columns: Mapping[str, Any]) -> list[Message]:  # noqa: ARG002
        """The prompt, with the instructions at the end of its system message.

        Where there is none, they stand before the first message: some chat templates refuse a
        system message, and others have one of their own.
        """
        first, *rest = prompt
        texts = [first["content"], self.instructions]
        if first["role"] != "system":
            texts.reverse()
        return [{"role": first["role"], "content": "\n\n".join(texts)}, *rest]

    def step(self, messages: list[Message]) -> Step:
        """The results of the calls in the model's turn, one to a line.

        They are said by the user: every chat template has a way to write that, unlike `tool`.
        """
        calls = _CALL.findall(messages[-1]["content"])
        if not calls:
            return Step([], 0.0, done=True)
        results, reward = [], 0.0
        for call in calls:
            try:
                results.append(f"<result>{compute(call)}</result>")
                reward += self.call_reward
            except ArithmeticError as error:
                results.append(f"<result>error: {error}</result>")
        return Step([{"role": "user", "content": "\n".join(results)}], reward, done=False)


def compute(expression: str) -> str:
    """The value of an arithmetic expression, in at most 77 digits.

    Takes bounded time and memory whatever the expression is.

    Raises:
        ArithmeticError: if it is none, has no value among the real numbers, or too large a one.
    """
    text = expression.strip()
    if len(text) > _MAX_LENGTH:
        raise ArithmeticError(f"longer than {_MAX_LENGTH} characters")
    if not _EXPRESSION.fullmatch(text):
        raise ArithmeticError("only numbers, parentheses and + - * / // % ** are known")
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ArithmeticError("not an expression") from error
    except ZeroDivisionError as error:
        raise ArithmeticError("division by zero") from error
    except OverflowError as error:
        raise ArithmeticError("too large") from error
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.12g}"
    return str(value)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            first, second = _value(left), _value(right)
            if isinstance(op, ast.Pow):
                _check_power(first, second)
            return _bounded(_BINARY[type(op)](first, second))
    raise ArithmeticError("not an expression")


def _check_power(base: Number, exponent: Number) -> None:
    """Refuses a power before it is computed: of whole numbers it could fill the memory."""
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and exponent * (int(base).bit_length() - 1) > _MAX_BITS:
        raise OverflowError
    if base < 0 and isinstance(exponent, float) and not exponent.is_integer():
        raise ArithmeticError("not a real number")


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise OverflowError
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    return value

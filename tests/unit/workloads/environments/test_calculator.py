"""The calculator: what it computes, what it refuses, and what it says in a conversation."""

from __future__ import annotations

import random

import pytest

from workloads.data.rows import Message
from workloads.environments import Step
from workloads.environments.calculator import INSTRUCTIONS, Calculator, compute

ASKED: Message = {"role": "user", "content": "What is 12*7?"}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*7", "84"),
        (" 2 + 3 * 4\n", "14"),
        ("(2 + 3) * -4", "-20"),
        ("+7 - -1", "8"),
        ("7 / 2", "3.5"),
        ("8 / 2", "4"),
        ("7 // 2", "3"),
        ("-7 % 3", "2"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("2 ** -9999", "0"),
        ("4 ** 0.5", "2"),
        ("(-8) ** 3.0", "-512"),
        ("0.1 + 0.2", "0.3"),
        ("1e3", "1000"),
        ("123456789012345 / 1", "123456789012345"),
        ("1/3", "0.333333333333"),
        ("2**80", str(2**80)),
        ("1e20", "1e+20"),
    ],
)
def test_arithmetic(expression: str, value: str) -> None:
    assert compute(expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "only numbers"),
        ("1 +", "not an expression"),
        ("012", "not an expression"),
        ("(1)(2)", "not an expression"),
        ("e", "not an expression"),
        ("1,234", "only numbers"),
        ("abs(1)", "only numbers"),
        ("__import__('os')", "only numbers"),
        ("1j", "only numbers"),
        ("1 if 2 else 3", "only numbers"),
        ("0x10", "only numbers"),
        ("1\x00", "only numbers"),
        ("1 / 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("1 % 0.0", "division by zero"),
        ("9**9**9", "too large"),
        ("((9**9)**9)**9", "too large"),
        ("2**255*2", "too large"),
        ("9" * 100, "too large"),
        ("1e999", "too large"),
        ("1e308*10", "too large"),
        ("10.0**400", "too large"),
        ("(-8)**0.5", "not a real number"),
        ("1+" * 100 + "1", "longer than 200"),
    ],
)
def test_what_is_no_arithmetic_has_a_reason(expression: str, reason: str) -> None:
    with pytest.raises(ArithmeticError, match=reason):
        compute(expression)


def answer(expression: str) -> str:
    """The value, or why there is none."""
    try:
        return compute(expression)
    except ArithmeticError as error:
        return str(error)


@pytest.mark.parametrize(
    ("expression", "answers"),
    [
        ("(" * 199, {"not an expression"}),
        ("(" * 99 + "1" + ")" * 99, {"1", "not an expression"}),
        ("-" * 199 + "1", {"-1", "not an expression"}),
    ],
)
def test_deep_nesting_is_computed_or_refused(expression: str, answers: set[str]) -> None:
    assert answer(expression) in answers


def test_any_text_of_its_characters_has_a_short_answer() -> None:
    draw = random.Random(0)
    parts = ["9", "12", "0", ".", "e", "(", ")", "+", "-", "*", "**", "/", "//", "%", " ", "1e9"]
    for _ in range(3000):
        assert 0 < len(answer("".join(draw.choices(parts, k=draw.randint(1, 24))))) < 80


def test_instructions_are_added_to_the_system_message() -> None:
    prompt: list[Message] = [{"role": "system", "content": "Be brief."}, ASKED]
    expected = [{"role": "system", "content": f"Be brief.\n\n{INSTRUCTIONS}"}, ASKED]
    assert Calculator().reset(prompt, {}) == expected
    assert prompt[0]["content"] == "Be brief."


def test_without_a_system_message_they_stand_before_the_question() -> None:
    expected = [{"role": "user", "content": "Use it.\n\nWhat is 12*7?"}]
    assert Calculator(instructions="Use it.").reset([ASKED], {"level": 3}) == expected


def test_the_instructions_show_a_call_that_works() -> None:
    step = Calculator().step([{"role": "assistant", "content": INSTRUCTIONS}])
    assert step.messages[0]["content"] == "<result>84</result>"
    assert "<result>84</result>" in INSTRUCTIONS


def test_calls_are_answered_by_the_user_one_to_a_line() -> None:
    turn = "<calculator>12*7</calculator> and <calculator>1/0</calculator>, "
    turn += "<calculator>\n2\n</calculator>"
    messages: list[Message] = [ASKED, {"role": "assistant", "content": turn}]
    lines = "<result>84</result>\n<result>error: division by zero</result>\n<result>2</result>"
    expected = Step([{"role": "user", "content": lines}], 0.5, done=False)
    assert Calculator(call_reward=0.25).step(messages) == expected
    assert len(messages) == 2


@pytest.mark.parametrize("turn", ["It is 84.", "<calculator>12*7", ""])
def test_a_turn_without_a_call_ends_the_conversation(turn: str) -> None:
    earlier: Message = {"role": "assistant", "content": "<calculator>12*7</calculator>"}
    messages: list[Message] = [ASKED, earlier, ASKED, {"role": "assistant", "content": turn}]
    assert Calculator().step(messages) == Step([], 0.0, done=True)

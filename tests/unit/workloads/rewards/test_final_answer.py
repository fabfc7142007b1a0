"""Which part of a text is its final answer."""

import pytest

from workloads.rewards.final_answer import NUMBER, final_answer, is_prose


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # marked
        ("<think>7</think><answer> 72 </answer>", "72"),
        ("<answer>1</answer> no: <answer>2</answer> so 3", "2"),
        ("<Answer>\nThe total is 3 apples.\n</Answer>", "3"),
        (r"<answer>it is \boxed{5}, not 6</answer> 7", "5"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}, of 9", r"\frac{1}{2}"),
        (r"\boxed{4} and \boxed{never closed", "4"),
        (r"\fbox{4}", "4"),
        (r"\boxed{72 apples}", "72"),
        ("48/2 = 24, 48+24 = 72\n#### 72", "72"),
        ("#### 5\n#### 1,234 \n", "1,234"),
        ("#### 72\nAs a check, 7 is too few.", "72"),
        ("#### Paris", "Paris"),
        ("#### Step 2\nIt is 5 in all.", "5"),
        (r"\boxed{8} or #### 9", "8"),
        # whole
        ("72", "72"),
        ("  2x + 3\n", "2x + 3"),
        ("x = 5 or x = 3", "x = 5 or x = 3"),
        (r"$\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\sqrt{2}", r"\sqrt{2}"),
        ("(B)", "(B)"),
        ("Paris", "Paris"),
        ("", ""),
        # last of a prose
        ("She sold 48 and 24, so 72.", "72"),
        ("It is 5.", "5"),
        ("答案是72。", "72"),
        ("It costs $5, and then $1,234.50.", "1,234.50"),
        ("the answer is 3/4.", "3/4"),
        ("so we get $x^2$, and are done", "x^2"),
        (r"so we get \(x^2\) from step 1", "1"),
        ("We find $$\nx + 1\n$$", "x + 1"),
        ("The capital is Paris.", "The capital is Paris."),
    ],
)
def test_the_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("-1,234.5", ["-1,234.5"]),
        ("5-3", ["5", "3"]),
        ("x=-5, y=−4", ["-5", "−4"]),
        (".5 1e-3 20% 2^{10} 3/4", [".5", "1e-3", "20%", "2^{10}", "3/4"]),
        ("1,2 and 12,345,678", ["1", "2", "12,345,678"]),
        ("a2 v1.2 7.", ["7"]),
    ],
)
def test_numbers_as_people_write_them(text: str, numbers: list[str]) -> None:
    assert [match[0] for match in NUMBER.finditer(text)] == numbers


@pytest.mark.parametrize("text", ["2ab + c", "sin(x) and cos(x)", r"4 \text{ apples}", "3 cm", "B"])
def test_an_expression_is_no_prose(text: str) -> None:
    assert not is_prose(text)


@pytest.mark.parametrize("text", ["Paris", "it is 4", "4 apples", "多少"])
def test_words_are_prose(text: str) -> None:
    assert is_prose(text)

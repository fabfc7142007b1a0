"""Whether an answer is right."""

import threading
import time

import pytest

from workloads.rewards.accuracy import accuracy


@pytest.mark.parametrize(
    ("completion", "solution"),
    [
        ("72", "72"),
        ("So she sold 72 clips.", "She sold 48/2 = 24 clips.\n#### 72"),
        ("<think>48+24</think>\n<answer>72</answer>", "#### 72"),
        (r"Hence \boxed{72}.", "72"),
        ("72.0", "72"),
        ("1,234", "1234"),
        ("$18", "18"),
        (r"\$1,000.50", "1000.5"),
        ("0.5", r"\frac{1}{2}"),
        ("1/2", "0.5"),
        (r"\dfrac34", "0.75"),
        ("50%", "0.5"),
        ("1e5", "100000"),
        ("The answer is 2^10.", "1024"),
        ("−3", "-3"),
        ("3 + 2x", "2x+3"),
        ("x^2 + 2x + 1", "(x+1)^2"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("2pi", r"2\pi"),
        ("x = 5", "5"),
        ("3 or 5", "x = 5 or x = 3"),
        ("(1,2)", "(1, 2)"),
        (r"\boxed{12\text{ cm}}", "12"),
        ("<answer>paris.</answer>", "Paris"),
        ("(B)", "B"),
        (r"\boxed{\text{(b)}}", "B"),
        ("yes", "Yes"),
    ],
)
def test_a_right_answer(completion: str, solution: str) -> None:
    assert accuracy([completion], [solution]) == [1.0]


@pytest.mark.parametrize(
    ("completion", "solution"),
    [
        ("71", "72"),
        ("", "72"),
        (r"\boxed{}", "72"),
        ("72, and 2 remain", "72"),
        ("<answer>71</answer> 72", "72"),
        ("B", "A"),
        ("pairs", "Paris"),
        ("The capital is Paris.", "Paris"),
        ("3", "2x + 3"),
        ("3", "x = 5 or x = 3"),
        ("[1,2]", "(1,2)"),
        ("no", "72"),
    ],
)
def test_a_wrong_answer(completion: str, solution: str) -> None:
    assert accuracy([completion], [solution]) == [0.0]


def test_a_row_without_a_solution_is_not_judged() -> None:
    assert accuracy(["1", "1", "1"], [None, " ", "1"]) == [None, None, 1.0]


def test_an_answer_that_never_ends_is_wrong_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.rewards.accuracy._COMPARISON_S", 1)
    began = time.monotonic()
    assert accuracy(["9^{9^{9^{9}}}", "x" * 100_000], ["3", "3"]) == [0.0, 0.0]
    assert time.monotonic() - began < 10


def test_it_works_outside_of_the_main_thread() -> None:
    found: list[float | None] = []
    thread = threading.Thread(target=lambda: found.extend(accuracy(["0.5"], ["1/2"])))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_an_answer_is_not_run(capfd: pytest.CaptureFixture[str]) -> None:
    attack = "__import__('os').system('echo pwned')"
    assert accuracy([attack, rf"\boxed{{{attack}}}", f"1+{attack}"], ["2"] * 3) == [0.0] * 3
    assert "pwned\n" not in capfd.readouterr().out

"""A user's function: looked at without being run, and imported."""

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import UserError
from workloads.rewards.user_function import find_function, import_function

MODULE = """
raise RuntimeError("this module was run")

def brevity(completions, *, scale=1.0): ...
async def judged(completions, **columns): ...
class Judge: ...
alias = brevity
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "unit_rewards.py").write_text(MODULE)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("brevity", {}),
        ("brevity", {"scale": 2}),
        ("judged", {"anything": 1}),
        ("Judge", {"anything": 1}),
        ("alias", {"anything": 1}),
    ],
)
def test_what_may_be_right(folder: str, name: str, params: dict[str, Any]) -> None:
    find_function(f"unit_rewards:{name}", [folder], params)


@pytest.mark.parametrize(
    ("import_path", "params", "reason"),
    [
        ("unit_reward:brevity", {}, "no module 'unit_reward'"),
        ("unit_rewards:brevty", {}, r"no function 'brevty'(.|\n)*did you mean 'brevity'"),
        ("unit_rewards:brevity", {"scal": 2}, r"no parameter 'scal'(.|\n)*did you mean 'scale'"),
        ("unit_rewards:brevity", {"completions": 2}, "no parameter 'completions'"),
    ],
)
def test_what_is_not_there_is_named(
    folder: str, import_path: str, params: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        find_function(import_path, [folder], params)


def test_an_installed_function_is_imported() -> None:
    assert import_function("math:sqrt")(4) == 2
    with pytest.raises(UserError, match="has no function 'pi'"):
        import_function("math:pi")

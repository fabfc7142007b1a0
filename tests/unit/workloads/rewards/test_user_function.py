"""Finding the user's function without running it."""

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SpecError, UserError
from workloads.rewards.user_function import find_function, import_function

MODULE = """
import os
from math import sqrt as root
raise RuntimeError("this module was run")

def brevity(completions, *, scale=1.0):
    ...

async def judged(completions, **columns):
    ...

alias = brevity
limit: int = 3
if os.name == "posix":
    def posix_only(completions): ...
try:
    import fast
except ImportError:
    def slow(completions): ...
class Judge: ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unit_rewards.py").write_text(MODULE)
    package = tmp_path / "unit_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('this package was run')")
    (package / "inner.py").write_text("from elsewhere import *\n")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["brevity", "judged", "alias", "root", "posix_only", "slow", "fast", "Judge"]
)
def test_a_name_that_the_module_defines(folder: Path, name: str) -> None:
    find_function(f"unit_rewards:{name}", [str(folder)], {})


def test_a_package_is_not_run_and_an_import_of_all_not_followed(folder: Path) -> None:
    find_function("unit_package.inner:anything", [str(folder)], {})


@pytest.mark.parametrize(
    ("import_path", "params", "reason"),
    [
        (
            "unit_reward:brevity",
            {},
            r"no module 'unit_reward'(.|\n)*unit_reward.py beside the spec",
        ),
        ("unit_package.outer:f", {}, "no module 'unit_package.outer'"),
        ("unit_rewards.inner:f", {}, "no module 'unit_rewards.inner'"),
        ("unit_rewards:brevty", {}, r"no 'brevty'(.|\n)*did you mean 'brevity'"),
        ("unit_rewards:brevity", {"scal": 2}, r"no parameter 'scal'(.|\n)*did you mean 'scale'"),
    ],
)
def test_what_is_not_there_is_named(
    folder: Path, import_path: str, params: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        find_function(import_path, [str(folder)], params)


def test_any_setting_goes_where_the_function_takes_any(folder: Path) -> None:
    find_function("unit_rewards:judged", [str(folder)], {"anything": 1})


def test_the_first_folder_wins(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "unit_rewards.py").write_text("def only_here(completions): ...")
    find_function("unit_rewards:only_here", [str(other), str(folder)], {})
    with pytest.raises(UserError):
        find_function("unit_rewards:only_here", [str(folder), str(other)], {})


def test_a_module_that_is_no_python_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "unit_broken.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(SpecError) as caught:
        find_function("unit_broken:f", [str(tmp_path)], {})
    (problem,) = caught.value.problems
    assert problem.file == str(tmp_path / "unit_broken.py")
    assert problem.line == 2


def test_an_installed_function_is_imported() -> None:
    assert import_function("math:sqrt")(4) == 2
    with pytest.raises(UserError, match="'math' has no function 'pi'"):
        import_function("math:pi")

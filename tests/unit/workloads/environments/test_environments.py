"""Environments by name and by import path: found, looked at without being run, and loaded."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import UserError
from jobs.spec.environment import EnvironmentSpec
from workloads.environments import ENVIRONMENTS, METHODS, check_environment, load_environment
from workloads.environments.calculator import Calculator

BOTH = "    def reset(self, prompt, columns): ...\n    async def step(self, messages): ...\n"
RUNS = "raise SystemError('this code was run')\n"


@pytest.fixture(autouse=True)
def _imports_are_undone() -> Iterator[None]:
    path, modules = sys.path.copy(), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def spec(import_path: str, **params: Any) -> EnvironmentSpec:
    return EnvironmentSpec(import_path=import_path, params=params)


def write(folder: Path, source: str, name: str = "my_world.py") -> tuple[str, ...]:
    """A module of the user's, and the folders to look in."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return (str(folder),)


def refused(found: EnvironmentSpec, paths: tuple[str, ...]) -> UserError:
    with pytest.raises(UserError) as caught:
        check_environment(found, paths)
    return caught.value


def test_every_name_of_the_spec_has_its_line() -> None:
    (names, _none) = typing.get_args(EnvironmentSpec.model_fields["name"].annotation)
    assert set(typing.get_args(names)) == set(ENVIRONMENTS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_built_in_environment_keeps_the_protocol(name: typing.Literal["calculator"]) -> None:
    check_environment(EnvironmentSpec(name=name), ())
    environment = load_environment(EnvironmentSpec(name=name), ())()
    assert all(callable(getattr(environment, method)) for method in METHODS)


def test_parameters_reach_a_built_in_environment() -> None:
    calculator = EnvironmentSpec(name="calculator", params={"call_reward": 0.1})
    check_environment(calculator, ())
    make = load_environment(calculator, ())
    first, second = make(), make()
    assert isinstance(first, Calculator)
    assert first.call_reward == 0.1
    assert first is not second


def test_a_mistyped_parameter_is_told() -> None:
    error = refused(EnvironmentSpec(name="calculator", params={"call_rewards": 0.1}), ())
    assert "takes no parameter 'call_rewards'" in error.message
    assert error.remedy == "did you mean 'call_reward'? it takes instructions, call_reward"


def test_a_class_beside_the_job_file_is_loaded(tmp_path: Path) -> None:
    source = f"class World:\n    def __init__(self, size): self.size = size\n{BOTH}"
    found = spec("my_world:World", size=3)
    paths = write(tmp_path, source)
    check_environment(found, paths)
    environment: Any = load_environment(found, paths)()
    assert environment.size == 3


def test_a_class_in_a_package_is_loaded_with_what_it_imports(tmp_path: Path) -> None:
    write(tmp_path, "", "worlds/__init__.py")
    write(tmp_path, f"class Base:\n{BOTH}", "base_world.py")
    paths = write(tmp_path, "from base_world import Base\nclass World(Base): ...", "worlds/flat.py")
    found = spec("worlds.flat:World", anything=1)
    check_environment(found, paths)  # what the base takes is not looked at
    assert callable(load_environment(found, paths))


def test_looking_runs_nothing(tmp_path: Path) -> None:
    check_environment(spec("my_world:World"), write(tmp_path, f"{RUNS}class World:\n{BOTH}"))


@pytest.mark.parametrize(
    "source",
    [
        "from elsewhere import World\n",
        "World = make_world()\n",
        "try:\n    from fast import World\nexcept ImportError:\n    class World: ...\n",
        f"class World:\n    def __init__(self, /, first=1, size=2): ...\n{BOTH}",
        f"class World:\n    def __init__(self, **anything): ...\n{BOTH}",
        f"@dataclass\nclass World:\n    size: int\n{BOTH}",
        f"class World(metaclass=Meta):\n{BOTH}",
    ],
)
def test_what_may_be_right_is_left_to_the_run(tmp_path: Path, source: str) -> None:
    check_environment(spec("my_world:World", size=3), write(tmp_path, source))


@pytest.mark.parametrize(
    ("place", "message", "remedy"),
    [
        ("my_wurld:World", "no module 'my_wurld'", "put my_wurld.py beside the job file"),
        ("my_world:Wurld", "my_world.py has no class 'Wurld'", "did you mean 'World'?"),
        ("my_world:Lacks", "has no method 'step'", "it needs the methods reset and step"),
        ("my_world:function", "is a function", "make it a class with the methods reset and step"),
        ("my_world:Needs", "needs the parameter 'size'", "params: {size: ...}"),
    ],
)
def test_what_can_not_be_right_is_told(
    tmp_path: Path, place: str, message: str, remedy: str
) -> None:
    paths = write(
        tmp_path,
        f"class World:\n{BOTH}"
        "class Lacks:\n    def reset(self, prompt, columns): ...\n"
        "def function(): ...\n"
        f"class Needs:\n    def __init__(self, size, *, wide=1, long=2): ...\n{BOTH}",
    )
    error = refused(spec(place), paths)
    assert message in error.message
    assert remedy in (error.remedy or "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there\n", "ModuleNotFoundError: No module named 'not_there'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("class Wurld: ...\n", "has no class 'World'"),
        ("World = 3\n", "has no class 'World'"),
        ("class World:\n    def reset(self, prompt, columns): ...\n", "has no method 'step'"),
    ],
)
def test_a_class_that_does_not_load_is_told(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_environment(spec("my_world:World"), write(tmp_path, source))

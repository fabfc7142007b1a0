"""Finding a user's module as an import would, and what it defines, without running it."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from jobs.errors import SpecError, UserError
from workloads.user_code import attribute, definition, make_importable, module_file

RUNS = "raise SystemError('this code was run')\n"

MODULE = f"""
import os, os.path as paths, package.inner
from math import sqrt as root
{RUNS}
def function(completions): ...
async def later(completions): ...
class Class: ...
alias = function
limit: int = 3
first, (*second, third) = make()
if os.name == "posix":
    def posix_only(completions): ...
elif walrus := make():
    with make() as managed:
        for looped in make(): ...
try:
    import fast
except ImportError:
    def slow(completions): ...
finally:
    final = 1
match alias:
    case 1:
        def matched(): ...
def twice(): ...
def twice(): ...
def _private(): inside = 1
"""


def write(file: Path, text: str = "") -> str:
    """Makes a module. Returns its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file.parent)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where Python looks for modules."""
    (tmp_path / "installed").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "installed")])
    return tmp_path / "installed"


def imported_file(module: str, paths: list[str]) -> str:
    """The file that a new process imports, as one that runs the user's code would."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from importlib import import_module\n"
        "from workloads.user_code import make_importable\n"
        f"make_importable({paths!r})\n"
        f"print(import_module({module!r}).__file__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize(
    ("module", "files", "found"),
    [
        # What is installed wins, then the first of the folders.
        ("a", ["installed/a.py", "one/a.py", "two/a.py"], "installed/a.py"),
        ("a", ["one/a.py", "two/a.py"], "one/a.py"),
        ("a.b", ["installed/a/__init__.py", "installed/a/b.py", "one/a/b.py"], "installed/a/b.py"),
        # Folders that are no packages are one module together, and a package comes before them.
        ("a.b", ["installed/a/c.py", "one/a/d.py", "two/a/b.py"], "two/a/b.py"),
        ("a.b", ["installed/a/b.py", "one/a/__init__.py", "one/a/b.py"], "one/a/b.py"),
        ("a", ["one/a.py", "two/a/__init__.py"], "one/a.py"),
    ],
)
def test_the_file_is_the_one_that_a_worker_imports(
    tmp_path: Path, installed: Path, module: str, files: list[str], found: str
) -> None:
    for name in files:
        write(tmp_path / name)
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert module_file(module, paths) == tmp_path / found
    assert imported_file(module, paths) == str(tmp_path / found)


@pytest.mark.parametrize("module", ["storage", "jobs", "jobs.errors", "json.decoder"])
def test_a_users_file_never_wins_over_ours_or_pythons(tmp_path: Path, module: str) -> None:
    folder = write(tmp_path / f"{module.replace('.', '/')}.py")
    write(tmp_path / module.partition(".")[0] / "__init__.py")
    assert str(module_file(module, [str(tmp_path), folder])) == import_module(module).__file__


def test_folders_are_made_importable_once_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["first", "here"])
    make_importable(["here", "there"])
    make_importable(["there"])
    assert sys.path == ["first", "here", "there"]


def test_looking_runs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "worlds" / "__init__.py", RUNS)
    write(tmp_path / "worlds" / "flat.py", f"{RUNS}class World: ...")
    before = sys.path.copy()
    assert isinstance(definition("class", "worlds.flat:World", [str(tmp_path)]), ast.ClassDef)
    with pytest.raises(UserError):
        module_file("worlds.round", [str(tmp_path)])
    assert "worlds" not in sys.modules
    assert sys.path == before


@pytest.mark.parametrize(
    ("module", "file"), [("time", None), ("folder", None), ("compiled", "compiled.pyc")]
)
def test_a_module_without_source_is_left_to_the_run(
    tmp_path: Path, module: str, file: str | None
) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "compiled.pyc")
    assert module_file(module, [str(tmp_path)]) == (tmp_path / file if file else None)
    assert definition("class", f"{module}:World", [str(tmp_path)]) is None


@pytest.mark.parametrize(
    ("module", "message", "remedy"),
    [
        ("fiat", "no module 'fiat'", "put fiat.py beside the job file or into the current folder"),
        ("__main__", "no module '__main__'", ""),
        ("loose.flat", "no module 'loose.flat'", "put loose/flat.py beside"),
        ("flat.deep", "no module 'flat.deep': 'flat' is {}/flat.py", "put flat/deep.py beside"),
        (
            "worlds.flat.deep",
            "no module 'worlds.flat.deep': 'worlds' is {}/worlds/__init__.py",
            "if that is not your file, give yours another name",
        ),
        ("loose..deep", "no module 'loose..deep'", ""),
    ],
)
def test_a_module_that_is_not_there(tmp_path: Path, module: str, message: str, remedy: str) -> None:
    write(tmp_path / "flat.py")
    write(tmp_path / "worlds" / "__init__.py")
    (tmp_path / "loose").mkdir()
    with pytest.raises(UserError) as caught:
        module_file(module, [str(tmp_path)])
    assert caught.value.message == message.format(tmp_path)
    assert remedy in (caught.value.remedy or "")


def test_what_a_module_defines(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine.py", MODULE)
    for names, kind in (
        ("function posix_only slow matched _private", ast.FunctionDef),
        ("later", ast.AsyncFunctionDef),
        ("Class", ast.ClassDef),
        ("os paths package root fast", ast.alias),
        ("alias limit first second third walrus managed looped final", ast.Name),
        ("twice", type(None)),
    ):
        for name in names.split():
            assert type(definition("function", f"mine:{name}", [folder])) is kind, name


@pytest.mark.parametrize("source", ["from elsewhere import *", "def __getattr__(name): ..."])
def test_a_module_that_may_define_anything(tmp_path: Path, source: str) -> None:
    assert definition("function", "mine:anything", [write(tmp_path / "mine.py", source)]) is None


def test_a_name_that_is_not_there_is_told_with_the_file_that_was_found(
    tmp_path: Path, installed: Path
) -> None:
    write(installed / "mine.py", MODULE)
    folder = write(tmp_path / "mine.py", "def funktion(): ...")
    with pytest.raises(UserError) as caught:
        definition("function", "mine:funktion", [folder])
    assert caught.value.message == f"{installed}/mine.py has no function 'funktion'"
    assert caught.value.remedy == (
        "did you mean 'function'? it defines function, later, Class, twice, twice, posix_only, "
        "slow, matched; if that is not your file, give yours another name: what is installed comes "
        "first"
    )
    with pytest.raises(UserError, match="no function 'inside'"):
        definition("function", "mine:inside", [folder])


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine.py", "".join(f"def f{n}(): ...\n" for n in range(999)))
    with pytest.raises(UserError, match=r"defines f0, f1, .{150,200} \.\.\.; if"):
        definition("function", "mine:World", [folder])


def test_source_that_is_no_python_is_told_at_its_place(tmp_path: Path) -> None:
    folder = write(tmp_path / "broken.py", "x = 1\ndef f(:\n")
    with pytest.raises(SpecError) as caught:
        definition("function", "broken:f", [folder])
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == (f"{folder}/broken.py", 2, 7)
    assert problem.message == "invalid syntax: this is not Python"


def test_source_is_read_as_python_reads_it(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\nx = '\xff'\ndef f(): ...\n")
    assert definition("function", "latin:f", [str(tmp_path)])
    for source in (b"x = '\xff'\n", b"x = 1\0\n"):
        (tmp_path / "binary.py").write_bytes(source)
        with pytest.raises(UserError, match=r"binary\.py"):
            definition("function", "binary:f", [str(tmp_path)])


def test_an_object_of_a_module_is_of_the_kind() -> None:
    assert attribute("function", math, "sqrt", callable) is math.sqrt
    with pytest.raises(UserError, match=r"math\S* has no function 'pi'\n.*it defines acos, ") as e:
        attribute("function", math, "pi", callable)
    assert "'pi'?" not in str(e.value)
    with pytest.raises(UserError, match=r"^time has no function 'slep'\n.*did you mean 'sleep'"):
        attribute("function", import_module("time"), "slep", callable)

"""Files are named for what they hold, stay readable in length, and hold nothing of one machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("jobs", "cluster", "workloads", "storage")
TEXT = {".cfg", ".in", ".lock", ".md", ".py", ".sh", ".toml", ".yaml", ".yml"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_LINES = 400

# Each is split, so that this file does not hold what it looks for. Homes under /home are left
# out: container images have theirs there, and manifests rightly name them.
MACHINE_PATH = re.compile(r"(?<![\w.$}/])/(?:" + r"work|root|Users)/|" + re.escape(str(ROOT)))
BARE_IGNORE = re.compile(r"#\s*type:\s*" + r"ignore(?!\[)")


def _files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _modules() -> list[Path]:
    return [path for path in _files(*PACKAGES) if path.suffix == ".py"]


def _texts() -> list[Path]:
    top = [path for path in ROOT.iterdir() if path.is_file()]
    rooms = _files(*PACKAGES, "k8s", "tests", "docs", ".ci")
    return [path for path in (*top, *rooms) if path.suffix in TEXT or path.name == "Makefile"]


def _lines_matching(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [str(path) for path in _files(*PACKAGES, "tests") if path.stem in VAGUE] == []


def test_no_module_is_longer_than_a_person_reads() -> None:
    sources = [*_modules(), *(path for path in _files("tests") if path.suffix == ".py")]
    lengths = {str(path): len(path.read_text().splitlines()) for path in sources}

    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_an_ignored_type_error_is_named() -> None:
    assert _lines_matching(BARE_IGNORE, _modules()) == []


def test_nothing_names_a_path_of_one_machine() -> None:
    assert _lines_matching(MACHINE_PATH, _texts()) == []


@pytest.mark.parametrize("folder", PACKAGES)
def test_no_module_is_named_like_one_it_could_hide(folder: str) -> None:
    taken = (sys.stdlib_module_names | packages_distributions().keys()) - set(PACKAGES)
    names = {path.stem for path in _modules() if path.relative_to(ROOT).parts[0] == folder}
    allowed = {"__init__", "__main__"}

    assert names & taken - allowed == set()

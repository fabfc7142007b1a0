"""No module of `jobs` escapes the layers that import-linter keeps."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _layered_modules() -> set[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return set(re.findall(r"[\w.]+", " ".join(layers)))


def test_every_module_of_jobs_has_a_layer() -> None:
    files = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "jobs").glob("*/__init__.py")}

    assert {f"jobs.{name}" for name in files | packages} - _layered_modules() == set()

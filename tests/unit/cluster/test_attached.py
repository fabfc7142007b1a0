"""A Ray that runs already: our packages go along, and it is left running."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cluster.attached import AttachedCluster
from jobs.errors import ClusterError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` and `ray.shutdown` were called with."""
    told: list[dict[str, Any]] = []
    ray = ModuleType("ray")
    ray.init = lambda **arguments: told.append(arguments)  # type: ignore[attr-defined]
    ray.shutdown = lambda: told.append({})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    exceptions = ModuleType("ray.exceptions")
    exceptions.RayError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    return told


def test_our_packages_are_shipped_and_nothing_in_the_working_folder_hides_them(
    calls: list[dict[str, Any]],
) -> None:
    with AttachedCluster("ray://head:10001") as attached:
        attached.connect()
        attached.connect()
    arguments, end = calls
    assert end == {}
    assert arguments["address"] == "ray://head:10001"
    environment = arguments["runtime_env"]
    shipped = [Path(folder) for folder in environment["py_modules"]]
    assert [folder.name for folder in shipped] == ["jobs", "cluster", "workloads", "storage"]
    assert all((folder / "__init__.py").is_file() for folder in shipped)
    assert environment["env_vars"]["PYTHONSAFEPATH"] == "1"


def test_a_cluster_that_is_not_there_is_a_cluster_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("refused")

    ray = ModuleType("ray")
    ray.init = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    exceptions = ModuleType("ray.exceptions")
    exceptions.RayError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    with pytest.raises(ClusterError, match="'auto': refused"), AttachedCluster("auto") as attached:
        attached.connect()

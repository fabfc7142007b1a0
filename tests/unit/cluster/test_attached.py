"""A Ray that runs already: our packages go along, and it is left running."""

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cluster import attached, driver
from cluster.attached import AttachedCluster
from cluster.fingerprint import fingerprint
from jobs.errors import ClusterError, ClusterUnfit


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` and `ray.shutdown` were called with."""
    for name in driver.ENVIRONMENT:
        monkeypatch.setenv(name, "")
    told: list[dict[str, Any]] = []
    ray = ModuleType("ray")
    ray.init = lambda **arguments: told.append(arguments)  # type: ignore[attr-defined]
    ray.shutdown = lambda: told.append({})  # type: ignore[attr-defined]
    ray._private = SimpleNamespace(worker=SimpleNamespace())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    exceptions = ModuleType("ray.exceptions")
    exceptions.RayError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    return told


def test_our_packages_are_shipped_and_nothing_in_the_working_folder_hides_them(
    calls: list[dict[str, Any]],
) -> None:
    with AttachedCluster("ray://head:10001", ship_code=True) as cluster:
        cluster.connect()
        cluster.connect()
    arguments, end = calls
    assert arguments["logging_level"] == logging.ERROR
    assert end == {}
    assert arguments["address"] == "ray://head:10001"
    environment = arguments["runtime_env"]
    shipped = [Path(folder) for folder in environment["py_modules"]]
    assert [folder.name for folder in shipped] == ["jobs", "cluster", "workloads", "storage"]
    assert all((folder / "__init__.py").is_file() for folder in shipped)
    assert environment["env_vars"]["PYTHONSAFEPATH"] == "1"


def test_nodes_with_other_code_are_refused_and_left(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "_on_each_node", lambda _: {"10.0.0.2": "f" * 64})
    with (
        pytest.raises(ClusterUnfit, match=f"{fingerprint()[:12]} here, and {'f' * 12} on 10.0.0.2"),
        AttachedCluster("auto") as cluster,
    ):
        cluster.connect()
    assert calls[-1] == {}, "it is not connected any more"
    monkeypatch.setattr(attached, "_on_each_node", lambda _: {"10.0.0.2": fingerprint()})
    AttachedCluster("auto").connect()


def test_within_a_job_what_travels_is_the_jobs_own(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setattr(attached, "_on_each_node", lambda _: {})
    AttachedCluster("auto").connect()
    assert "runtime_env" not in calls[0]


@pytest.mark.usefixtures("calls")
def test_what_ray_says_is_not_told_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("ray")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    AttachedCluster("auto", ship_code=True).connect()
    assert logger.handlers == []
    assert logger.propagate
    said: list[str] = []
    monkeypatch.setattr(logger, "info", lambda text, *parts: said.append(text % parts))
    daemon = sys.modules["ray"]._private.worker
    daemon.print_to_stdstream({"pid": "raylet", "lines": ["a worker", "died"]}, False)
    assert said == ["raylet: a worker died"]


def test_a_cluster_that_is_not_there_is_a_cluster_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("refused")

    ray = ModuleType("ray")
    ray.init = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    exceptions = ModuleType("ray.exceptions")
    exceptions.RayError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    with pytest.raises(ClusterError, match="'auto': refused"), AttachedCluster("auto") as cluster:
        cluster.connect()


def test_nodes_that_lack_a_folder_are_named_and_silent_ones_are_not(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = AttachedCluster("auto", ship_code=True)
    assert cluster.nodes_without(Path("/runs")) == (), "nobody is asked before it is connected"
    answers = {"10.0.0.1": True, "10.0.0.2": False, "10.0.0.3": "none (WorkerCrashedError)"}
    with cluster:
        cluster.connect()
        monkeypatch.setattr(attached, "_on_each_node", lambda _: answers)
        assert cluster.nodes_without(Path("/runs")) == ("10.0.0.2",)

        def unreachable(_: object) -> None:
            raise RuntimeError("no head")

        monkeypatch.setattr(attached, "_on_each_node", unreachable)
        assert cluster.nodes_without(Path("/runs")) == ()

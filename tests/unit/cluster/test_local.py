"""A Ray of our own: started once, with what is needed, and gone without a trace."""

import os
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import cluster.local
from cluster.local import LocalCluster, cores
from jobs.errors import ClusterError
from jobs.plan.resolve import StagePlan
from jobs.spec.sft import SftSpec


class FakeRay(ModuleType):
    """Stands in for the `ray` package and records what it is told."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = ModuleType("ray.exceptions")
        self.exceptions.RayError = type("RayError", (Exception,), {})  # type: ignore[attr-defined]
        self._private = SimpleNamespace(worker=SimpleNamespace())
        self.started: list[dict[str, Any]] = []
        self.ended = 0
        self.refusal: Exception | None = None

    def init(self, **arguments: Any) -> None:
        if self.refusal:
            raise self.refusal
        self.started.append(arguments)

    def shutdown(self) -> None:
        self.ended += 1


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(cluster.local, "cores", lambda: 8)
    return fake


def _stage(name: str, cpus: int | None, workers: int = 1) -> StagePlan:
    resources = {"workers": workers, **({"cpus_per_worker": cpus} if cpus else {})}
    spec = SftSpec.model_validate(
        {"kind": "sft", "model": "m", "dataset": {"train": [{"path": "x"}]}, "resources": resources}
    )
    return StagePlan(name, spec, (), {}, "adapter")


def _room(local: LocalCluster, stage: StagePlan, patience: int = 0) -> tuple[bool, list[str]]:
    """Whether a stage is given room before it was told so often to wait, and what it was told."""
    told: list[str] = []

    def tell(reason: str) -> None:
        told.append(reason)
        if len(told) > patience:
            raise TimeoutError

    try:
        with local.room(stage, stage.name, tell):
            return True, told
    except TimeoutError:
        return False, told


def test_stages_whose_cores_fit_together_run_side_by_side(ray: FakeRay) -> None:
    local = LocalCluster(workers=1, cpus_per_worker=8)
    with local.room(_stage("one", 4), "one", print):
        assert _room(local, _stage("two", 4)) == (True, [])
        assert _room(local, _stage("all", None)) == (False, ["8 CPUs: 4 of 8 in use by one"])
        with local.room(_stage("two", 2, workers=2), "two", print):
            waits, told = _room(local, _stage("three", 1))
            assert (waits, told) == (False, ["1 CPUs: 8 of 8 in use by one; two"])
    assert _room(local, _stage("all", None)) == (True, [])


def test_a_stage_with_more_processes_than_cores_has_the_machine_to_itself(ray: FakeRay) -> None:
    local = LocalCluster(workers=12, cpus_per_worker=None)
    with local.room(_stage("many", None, workers=12), "many", print):
        assert not _room(local, _stage("one", 1))[0]


def test_who_waits_is_woken_when_there_is_room(ray: FakeRay) -> None:
    local, waits, leave = LocalCluster(1, 8), threading.Event(), threading.Event()

    def hold() -> None:
        with local.room(_stage("one", 8), "one", print):
            waits.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    while not local._bookings._claims:
        leave.wait(0.001)

    def tell(reason: str) -> None:
        waits.set()

    with local.room(_stage("two", 8), "two", tell):
        holder.join()


def test_ray_is_started_once_and_ended_with_the_block(ray: FakeRay) -> None:
    with LocalCluster(workers=2, cpus_per_worker=None) as local:
        assert ray.started == []
        local.connect()
        local.connect()
        (arguments,) = ray.started
        folder = Path(arguments["_temp_dir"])
        assert folder.is_dir()
        assert len(str(folder)) < 40
        assert (arguments["address"], arguments["num_cpus"]) == ("local", 9)
        assert arguments["include_dashboard"] is False
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32
    assert ray.ended == 1
    assert not folder.exists()


def test_a_block_that_needs_no_ray_ends_none(ray: FakeRay) -> None:
    with LocalCluster(1, None):
        pass
    assert (ray.started, ray.ended) == ([], 0)


def test_ray_gets_as_many_cores_as_the_spec_asks_for(ray: FakeRay) -> None:
    with LocalCluster(workers=4, cpus_per_worker=3) as local:
        local.connect()
    assert ray.started[0]["num_cpus"] == 13


def test_a_ray_that_does_not_start_is_a_cluster_error(ray: FakeRay) -> None:
    ray.refusal = Exception("no room")
    local = LocalCluster(1, None)
    with pytest.raises(ClusterError, match="did not start on this machine: no room"), local:
        local.connect()
    ray.refusal = None
    with local:
        local.connect()
    assert len(ray.started) == 1


@pytest.mark.parametrize(("workers", "share"), [(1, 8), (3, 2), (20, 1)])
def test_workers_share_the_cores(ray: FakeRay, workers: int, share: int) -> None:
    assert LocalCluster(workers, None).cpus_per_worker(workers) == share


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("150000 100000\n", 2), ("10000 100000\n", 1), ("max 100000\n", 6), ("900000 100000", 6)],
)
def test_cores_are_those_of_the_group_s_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    monkeypatch.setattr(cluster.local, "Path", lambda path: file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert cores() == expected


def test_ray_data_s_logging_is_where_the_environment_says() -> None:
    assert Path(cluster.local._ENVIRONMENT["RAY_DATA_LOGGING_CONFIG"]).is_file()

"""Which nodes a shared cluster has, and has at most."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cluster.placement import Places


class FakeRay(ModuleType):
    """A cluster whose nodes a test says."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.alive: dict[str, int] = {}
        self.groups: list[Any] = []
        state = SimpleNamespace(get_cluster_config=self._config)
        self._private = SimpleNamespace(state=SimpleNamespace(state=state))

    def _config(self) -> Any:
        return SimpleNamespace(node_group_configs=self.groups) if self.groups else None

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": key, "Alive": True, "NodeManagerAddress": key, "Resources": {"CPU": cpus}}
            for key, cpus in self.alive.items()
        ]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """The cluster that Ray is connected to."""
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_a_lost_node_counts_until_another_takes_its_place(ray: FakeRay) -> None:
    places = Places()
    ray.alive = {"a": 2, "b": 2}
    assert [node.name for node in places.limit()] == ["a", "b"]
    ray.alive = {"a": 2}
    assert list(places.nodes()) == ["a"]
    assert [node.name for node in places.limit()] == ["a", "b"]
    ray.alive = {"a": 2, "c": 2}
    assert [node.name for node in places.limit()] == ["a", "c"]


def test_what_an_autoscaler_may_make_counts(ray: FakeRay) -> None:
    ray.alive = {"head": 0}
    ray.groups = [SimpleNamespace(name="gpu", resources={"CPU": 8, "GPU": 1}, max_count=2)]
    limit = Places().limit()
    assert [(node.name, node.cpus, node.gpus) for node in limit] == [
        ("gpu 1", 8, 1),
        ("gpu 2", 8, 1),
    ]

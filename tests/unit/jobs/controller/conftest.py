"""The bench of the controller's tests."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

import jobs.controller
import jobs.stage_run
from jobs.state import FailureClass
from tests.unit.jobs.controller.bench import Bench
from workloads import WORKLOADS, Workload
from workloads.failures import Retries


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that stages would have waited between attempts."""
    seconds: list[float] = []

    class Hasty(Retries):
        def wait_s(
            self, kind: FailureClass, committed: frozenset[str] = frozenset()
        ) -> float | None:
            wait_s = super().wait_s(kind, committed)
            if wait_s is not None:
                seconds.append(wait_s)
            return None if wait_s is None else 0.0

    monkeypatch.setattr(jobs.stage_run, "Retries", Hasty)
    return seconds


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> Bench:
    code = ModuleType("stages_of_this_test")
    monkeypatch.setitem(sys.modules, code.__name__, code)
    for kind in ("sft", "merge", "serve"):
        monkeypatch.setitem(WORKLOADS, kind, Workload(check="", run=f"{code.__name__}:{kind}"))
    monkeypatch.setattr(jobs.controller, "_POLL_S", 0.005)
    return Bench(tmp_path, code)

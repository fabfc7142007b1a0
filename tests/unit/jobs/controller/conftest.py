"""The bench of the controller's tests."""

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import jobs.controller
from tests.unit.jobs.controller.bench import Bench
from workloads import WORKLOADS, Workload


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the controller would have waited between attempts."""
    seconds: list[float] = []

    class Clock:
        @staticmethod
        def sleep(duration: float) -> None:
            seconds.append(duration)

        monotonic = staticmethod(time.monotonic)

    monkeypatch.setattr(jobs.controller, "time", Clock)
    return seconds


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> Bench:
    code = ModuleType("stages_of_this_test")
    monkeypatch.setitem(sys.modules, code.__name__, code)
    for kind in ("sft", "merge", "serve"):
        monkeypatch.setitem(WORKLOADS, kind, Workload(check="", run=f"{code.__name__}:{kind}"))
    monkeypatch.setattr(jobs.controller, "_POLL_S", 0.005)
    return Bench(tmp_path, code)

"""A sweep's folder, whose record is closed at the end of the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.workloads.sweep.bench import Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path)
    yield sweep
    for trials in sweep.opened:
        trials.close()

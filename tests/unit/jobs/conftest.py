"""What tests of records and of what is read from them share."""

from pathlib import Path

import pytest

from storage.layout import Layout
from tests.unit.jobs.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)

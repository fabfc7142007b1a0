"""A scripted service, and a client of it."""

from collections.abc import Iterator

import pytest

from jobs.chat.api import ChatApi
from tests.unit.jobs.chat.scripted import URL, Script


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def api(script: Script) -> Iterator[ChatApi]:
    with ChatApi(URL, "a-key", script) as opened:
        yield opened

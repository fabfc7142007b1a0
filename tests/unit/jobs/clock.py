"""A clock for tests of records."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 22, 10, 32, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

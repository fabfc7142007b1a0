"""How long a request to S3 is tried again."""

import time
from collections.abc import Iterator

import pytest
from botocore import exceptions as library

from jobs.errors import StorageError, StorageRefused
from storage.s3_calls import Calls, Failures, Patience


class Clock:
    """A clock that only sleeping moves."""

    now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def slow_down(_: bool) -> None:
    raise library.ClientError(
        {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "GetObject"
    )


def nobody(_: bool) -> None:
    raise library.EndpointConnectionError(endpoint_url="http://host")


def refused(_: bool) -> None:
    raise library.NoCredentialsError


def test_it_is_tried_until_it_ends_well(clock: Clock) -> None:
    doubts: list[bool] = []

    def third(unsure: bool) -> str:
        doubts.append(unsure)
        if len(doubts) < 3:
            raise ConnectionResetError(104, "reset")
        return "done"

    assert Calls(Patience())("GetObject", "s3://b/k", third) == "done"
    assert doubts == [False, True, True]
    assert 100 <= clock.now < 101


def test_it_is_given_up_when_the_budget_is_spent(clock: Clock) -> None:
    with pytest.raises(StorageError, match=r"503 SlowDown \(tried \d+ times in 1[012]\d s\)"):
        Calls(Patience(budget_s=120))("GetObject", "s3://b/k", slow_down)
    assert 110 < clock.now - 100 <= 120


def test_a_refusal_is_not_tried_again(clock: Clock) -> None:
    with pytest.raises(StorageRefused, match="no credentials"):
        Calls(Patience())("GetObject", "s3://b/k", refused)
    assert clock.now == 100


def test_a_stranger_gets_less_patience_than_a_friend(clock: Clock) -> None:
    calls = Calls(Patience(budget_s=120, brief_s=10))
    with pytest.raises(StorageError, match="cannot be reached"):
        calls("GetObject", "s3://b/k", nobody)
    assert clock.now - 100 <= 10
    calls("GetObject", "s3://b/k", lambda _: None)
    with pytest.raises(StorageError, match="cannot be reached"):
        calls("GetObject", "s3://b/k", nobody)
    assert clock.now - 100 > 100


def test_pauses_grow_to_the_longest(clock: Clock) -> None:
    failures = Failures(Patience(1e9, first_pause_s=0.1, longest_pause_s=2))

    def pauses() -> Iterator[float]:
        for _ in range(2000):
            pause_s = failures.pause_s()
            assert pause_s is not None
            yield pause_s

    found = list(pauses())
    assert found[0] <= 0.1
    assert max(found[:4]) <= 0.8
    assert 1.9 < max(found) <= 2
    # Random, so that those who failed together do not come back together.
    assert min(found[10:]) < 0.1


def test_without_a_budget_nothing_is_tried_again(clock: Clock) -> None:
    with pytest.raises(StorageError, match="tried once"):
        Calls(Patience(budget_s=0))("GetObject", "s3://b/k", slow_down)

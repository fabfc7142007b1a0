"""Requests to stop: how they are counted, and whom they are meant for."""

import os
import signal
from pathlib import Path

import pytest

from jobs.observed import Driver
from jobs.record import Record, StageStatus
from jobs.stopping import GRACEFUL, NOW, StopRequests, ask_to_stop
from storage.layout import Layout


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """The record of a run that this process drives."""
    return Record.create(
        Layout(tmp_path).run("bot", "1"), run_id="1", name="bot", plan_json="{}", spec_text="",
        lock={}, stages=(StageStatus(name="sft", kind="sft"),), digest="d",
    )  # fmt: skip


def test_the_second_request_is_to_end_at_once(record: Record) -> None:
    layout = record.layout
    assert StopRequests(layout).times == 0
    assert ask_to_stop(layout, record.status) == GRACEFUL
    assert StopRequests(layout).times == GRACEFUL
    assert [ask_to_stop(layout, record.status) for _ in range(2)] == [NOW, NOW]
    assert StopRequests(layout).times == NOW


def test_one_can_be_asked_to_end_at_once_the_first_time(record: Record) -> None:
    assert ask_to_stop(record.layout, record.status, now=True) == NOW


def test_a_request_to_an_earlier_driver_is_not_to_this_one(record: Record) -> None:
    before = Driver.here().model_copy(update={"start_time": "0"})
    ask_to_stop(record.layout, record.status.model_copy(update={"driver": before}), now=True)
    requests = StopRequests(record.layout)
    assert requests.times == 0
    with requests.taken():
        assert not record.layout.stop_request.exists()
    assert ask_to_stop(record.layout, record.status) == GRACEFUL


def test_a_request_that_comes_before_the_driver_looks_is_kept(record: Record) -> None:
    ask_to_stop(record.layout, record.status)
    requests = StopRequests(record.layout)
    with requests.taken():
        assert requests.times == GRACEFUL
    assert not record.layout.stop_request.exists()


def test_signals_count_too_and_go_back_to_whom_they_were(record: Record) -> None:
    requests, before = StopRequests(record.layout), signal.getsignal(signal.SIGTERM)
    with requests.taken():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert requests.times == NOW
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"times": "many"}'])
def test_what_can_not_be_read_is_no_request(record: Record, content: str) -> None:
    record.layout.stop_request.write_text(content)
    assert StopRequests(record.layout).times == 0

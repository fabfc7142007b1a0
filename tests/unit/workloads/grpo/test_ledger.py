"""The ledger of prompts: none is lost, none trained on twice."""

from __future__ import annotations

import json

import pytest

from workloads.grpo.ledger import Ledger


def test_positions_are_dispatched_in_order() -> None:
    ledger = Ledger()
    assert [ledger.dispatch() for _ in range(3)] == [0, 1, 2]
    assert ledger.counts() == {"dispatched": 3, "trained": 0, "filtered": 0, "under_way": 3}


def test_what_was_under_way_is_dispatched_again_first() -> None:
    ledger = Ledger()
    for _ in range(6):
        ledger.dispatch()
    for position in (0, 1, 3, 4):
        ledger.complete(position)
    ledger.train([0, 1])
    ledger.filter(3)
    after = Ledger.from_json(ledger.to_json())
    assert [after.dispatch() for _ in range(5)] == [2, 4, 5, 6, 7]


def test_a_prompt_is_trained_on_once() -> None:
    ledger = Ledger()
    ledger.complete(ledger.dispatch())
    ledger.train([0])
    with pytest.raises(ValueError, match="prompt 0"):
        ledger.train([0])


def test_a_prompt_without_completions_is_not_trained_on() -> None:
    ledger = Ledger()
    ledger.dispatch()
    with pytest.raises(ValueError, match="prompt 0"):
        ledger.train([0])


def test_positions_are_saved_as_ranges() -> None:
    ledger = Ledger()
    for _ in range(1000):
        ledger.complete(ledger.dispatch())
    ledger.train(p for p in range(1000) if p != 500)
    assert json.loads(ledger.to_json())["trained"] == [[0, 499], [501, 999]]

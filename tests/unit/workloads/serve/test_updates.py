"""Updates wait for one another, and each gets its own answer."""

import os
from pathlib import Path

from workloads.serve.updates import Outcome, answer, ask_for, next_request, outcome_of


def test_updates_are_answered_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "updates"
    assert next_request(folder) is None
    first, second = ask_for(folder, "a"), ask_for(folder, "b")
    os.utime(folder / f"{first.id}.request.json", ns=(1, 1))
    assert next_request(folder) == first
    assert outcome_of(folder, first) is None
    answer(folder, first, Outcome(False, "no"))
    assert outcome_of(folder, first) == Outcome(False, "no")
    assert next_request(folder) == second
    answer(folder, second, Outcome(True, "yes"))
    assert next_request(folder) is None

"""How a trial goes on from another one's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import storage.commit as commit_module
from jobs.errors import RaysmithError
from storage.commit import begin, commit, discard
from storage.committed import read_committed
from storage.durable import link_or_copy
from storage.layout import TrialLayout
from storage.manifest import Owner
from tests.unit.workloads.sweep.bench import Sweep
from workloads.sweep import takeover
from workloads.sweep.takeover import Takeover, read_takeover, take_over, write_takeover

DONOR = Owner("r1", "sweep-trial_0000", "key", 1)
OWN = Owner("r1", "sweep-trial_0001", "key", 1)


def _save(layout: TrialLayout, owner: Owner, step: int, text: str) -> Path:
    folder = layout.checkpoint(step)
    begin(folder, owner)
    (folder / "sub").mkdir()
    (folder / "weights").write_text(text)
    (folder / "sub" / "state").write_text(f"{text} state")
    commit(folder, owner, {"step": step, "from": text})
    return folder


@pytest.fixture
def pair(sweep: Sweep) -> tuple[TrialLayout, TrialLayout]:
    """A donor with a checkpoint of step 8, and a trial of its own one of step 12."""
    donor, own = sweep.layout.trial(0), sweep.layout.trial(1)
    _save(donor, DONOR, 8, "donor 8")
    _save(own, OWN, 12, "own")
    write_takeover(own, Takeover(0, 8))
    return donor, own


def _take(sweep: Sweep, wait_s: float = 0.0) -> int | None:
    return take_over(sweep.layout, sweep.layout.trial(1), OWN, wait_s)


def _found(own: TrialLayout) -> dict[str, str]:
    """The trial's checkpoints and what their weights are."""
    return {folder.name: (folder / "weights").read_text() for folder in own.checkpoints()}


def test_nothing_is_taken_over_where_nothing_is_wanted(sweep: Sweep) -> None:
    own = sweep.layout.trial(1)
    _save(own, OWN, 12, "own")
    assert _take(sweep) is None
    assert _found(own) == {"checkpoint-12": "own"}


def test_the_donors_checkpoint_takes_the_place_of_the_trials_own(
    sweep: Sweep, pair: tuple[TrialLayout, TrialLayout]
) -> None:
    donor, own = pair
    assert _take(sweep) == 8
    assert _found(own) == {"checkpoint-8": "donor 8"}
    manifest = read_committed(own.checkpoint(8), verify="digests")
    assert manifest
    assert (manifest.owner, manifest.meta) == (OWN, {"step": 8, "from": "donor 8"})
    assert (own.checkpoint(8) / "sub" / "state").read_text() == "donor 8 state"
    assert read_takeover(own) is None
    assert _take(sweep) is None
    discard(donor.checkpoint(8))
    assert read_committed(own.checkpoint(8), verify="digests")


@pytest.mark.parametrize(("steps", "taken"), [((4, 8, 12, 16), 8), ((12, 16), 12)])
def test_it_is_the_first_that_is_left_of_the_step_or_later(
    sweep: Sweep, pair: tuple[TrialLayout, TrialLayout], steps: tuple[int, ...], taken: int
) -> None:
    donor, own = pair
    discard(donor.checkpoint(8))
    for step in steps:
        _save(donor, DONOR, step, f"donor {step}")
    assert _take(sweep) == taken
    assert _found(own) == {f"checkpoint-{taken}": f"donor {taken}"}


def test_a_checkpoint_that_was_not_committed_is_not_taken(
    sweep: Sweep, pair: tuple[TrialLayout, TrialLayout]
) -> None:
    donor, own = pair
    discard(donor.checkpoint(8))
    begin(donor.checkpoint(8), DONOR)
    with pytest.raises(RaysmithError, match="trial_0000 has no checkpoint of step 8") as caught:
        _take(sweep)
    assert "checkpoint.save_steps" in str(caught.value)
    assert read_takeover(own)


class Killed(BaseException):
    """What a process does not survive."""


@pytest.mark.parametrize("at", ["discard", "begin", "link_or_copy", "commit", "the end"])
def test_killed_in_between_it_is_done_again(
    sweep: Sweep, pair: tuple[TrialLayout, TrialLayout], at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pair[1]

    def die(*given: object, **more: object) -> None:
        raise Killed

    def commit_and_die(*given: Any) -> None:
        commit(*given)
        raise Killed

    with monkeypatch.context() as patch:
        if at == "the end":
            patch.setattr(commit_module, "commit", commit_and_die)
        else:
            patch.setattr(takeover if at == "discard" else commit_module, at, die)
        with pytest.raises(Killed):
            _take(sweep)
    assert read_takeover(own) == Takeover(0, 8)
    again = Owner("r1", "sweep-trial_0001", "key", 2)
    assert take_over(sweep.layout, own, again, 0) == 8
    assert _found(own) == {"checkpoint-8": "donor 8"}
    assert read_takeover(own) is None


def test_a_donor_that_deletes_the_checkpoint_meanwhile_gives_its_next_one(
    sweep: Sweep, pair: tuple[TrialLayout, TrialLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    donor, own = pair
    _save(donor, DONOR, 12, "donor 12")

    def prune_first(source: Path, target: Path) -> None:
        if donor.checkpoint(8).exists():
            discard(donor.checkpoint(8))
        link_or_copy(source, target)

    monkeypatch.setattr(commit_module, "link_or_copy", prune_first)
    assert _take(sweep) == 12
    assert _found(own) == {"checkpoint-12": "donor 12"}


def test_a_donor_that_is_always_faster_is_an_error(
    sweep: Sweep, pair: tuple[TrialLayout, TrialLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(source: Path, target: Path) -> None:
        raise FileNotFoundError(source)

    monkeypatch.setattr(commit_module, "link_or_copy", vanish)
    with pytest.raises(RaysmithError, match="could be copied") as caught:
        _take(sweep)
    assert caught.value.remedy == "keep more: checkpoint.save_total_limit"
    assert _found(pair[1]) == {}

"""Which weights a sweep keeps, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import workloads.sweep.run as run_module
from jobs.errors import RaysmithError
from jobs.load.loader import load
from jobs.plan.resolve import StagePlan
from storage.commit import begin, commit
from storage.committed import read_committed
from storage.manifest import Owner
from tests.unit.workloads.sweep.bench import Sweep, make_spec
from workloads.context import Cluster, StageContext
from workloads.sweep.run import _keep_best, _release
from workloads.sweep.takeover import Takeover, write_takeover
from workloads.sweep.trials import Trial, Trials, TrialState


def _context(sweep: Sweep) -> StageContext:
    spec = make_spec()
    return StageContext(
        StagePlan("sweep", spec, (), {}, spec.produces), 7, (str(sweep.folder),),
        Owner("r1", "sweep", "key", 1), sweep.layout, sweep.layout.attempt(1),
        sweep.layout.run.artifact("sweep"), {}, cast(Cluster, None), lambda *_, **__: None, print,
    )  # fmt: skip


def _trial(sweep: Sweep, trials: Trials, index: int, loss: float, state: str = "") -> Trial:
    """A trial with a checkpoint, and once it has ended with a model too."""
    trial = trials.start(index, {"tuner.rank": 4})
    trials.report(trial, 8, 32, {"eval_loss": loss})
    layout, owner = sweep.layout.trial(index), Owner("r1", f"sweep-{trial.name}", "key", 1)
    for folder in (layout.checkpoint(8), *([layout.artifact] if state else [])):
        begin(folder, owner)
        (folder / "weights").write_text(trial.name)
        (folder / "sub").mkdir()
        (folder / "sub" / "more").write_text("more")
        commit(folder, owner, {"step": 8, "type": "adapter"})
    if state:
        trials.end(trial, TrialState(state), 1.0)
    return trial


def _kept(sweep: Sweep, count: int) -> list[int]:
    """The trials that have a checkpoint still."""
    return [i for i in range(count) if read_committed(sweep.layout.trial(i).checkpoint(8))]


def test_only_the_weights_of_the_best_and_of_what_goes_on_are_kept(sweep: Sweep) -> None:
    trials = sweep.trials()
    add = partial(_trial, sweep, trials)
    add(0, 2.0, "finished")
    add(1, 1.0, "stopped")
    add(2, 0.5, "failed")
    add(3, 9.0, "paused")
    add(4, 3.0)
    for _ in range(2):
        _release(_context(sweep), trials)
        assert _kept(sweep, 5) == [1, 3, 4]
    assert not sweep.layout.trial(0).artifact.exists()
    add(5, 0.75, "finished")
    _release(_context(sweep), trials)
    assert _kept(sweep, 6) == [3, 4, 5]


def test_a_trial_that_looks_best_while_it_runs_takes_nothing_from_the_best(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "draw", lambda trials, folder: None)
    trials = sweep.trials()
    _trial(sweep, trials, 0, 1.0, "finished")
    running = _trial(sweep, trials, 1, 0.5)
    _trial(sweep, trials, 2, 2.0, "finished")
    _release(_context(sweep), trials)
    trials.report(running, 12, 32, {"eval_loss": 7.0})
    trials.end(running, TrialState.STOPPED, 1.0)
    _keep_best(_context(sweep), make_spec(), trials)
    assert (_context(sweep).artifact / "weights").read_text() == "trial_0000"


def test_a_donor_keeps_its_checkpoint_until_it_is_taken(sweep: Sweep) -> None:
    trials = sweep.trials()
    for index, loss, state in ((0, 1.0, "finished"), (1, 2.0, "finished"), (2, 9.0, "paused")):
        _trial(sweep, trials, index, loss, state)
    waiting = sweep.layout.trial(2)
    write_takeover(waiting, Takeover(donor=1, step=8))
    _release(_context(sweep), trials)
    assert _kept(sweep, 3) == [0, 1, 2]
    waiting.takeover.unlink()
    _release(_context(sweep), trials)
    assert _kept(sweep, 3) == [0, 2]


def test_the_sweep_leaves_the_best_trials_model_and_job(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(run_module, "draw", lambda trials, folder: drawn.append(folder))
    trials = sweep.trials()
    for index, loss in enumerate((2.0, 1.0, 3.0)):
        _trial(sweep, trials, index, loss, "finished")
    context = replace(_context(sweep), made_of={"code": "c0ffee"})
    for _ in range(2):  # killed before its end, it does the same again
        _keep_best(context, make_spec(), trials)
        manifest = read_committed(context.artifact, verify="digests")
        assert manifest
        said = {"step": 8, "type": "adapter", "trial": 1}
        assert manifest.meta == {**said, "made_of": {"code": "c0ffee"}}
        assert [file.name for file in manifest.files] == ["sub/more", "weights"]
        assert (context.artifact / "weights").read_text() == "trial_0001"
    assert load(sweep.layout.best_spec, (), {}).spec.name == "job-best"
    assert drawn == [context.attempt.images] * 2


@pytest.mark.parametrize("state", [None, "failed"])
def test_without_a_best_trial_the_error_says_where_to_look(sweep: Sweep, state: Any) -> None:
    trials = sweep.trials()
    if state:
        _trial(sweep, trials, 0, 1.0, state)
    with pytest.raises(RaysmithError, match="no trial came to a value of eval_loss") as caught:
        _keep_best(_context(sweep), make_spec(), trials)
    assert "trials.csv" in str(caught.value)

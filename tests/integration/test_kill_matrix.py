"""A few kills of the matrix, see `tests.chaos.kill_matrix`: what a run is made of dies under it."""

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.kill_life import Cell, Victim
from tests.chaos.kill_matrix import TRAINING, Matrix
from tests.chaos.kill_traps import Phase

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

CELLS = (
    Cell(Victim.DRIVER, Phase.MID_UPLOAD),
    Cell(Victim.RANK, Phase.BEFORE_COMMIT),
    Cell(Victim.STORAGE, Phase.MID_SAVE),
    Cell(Victim.DRIVER, Phase.BETWEEN_STAGES),
)


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_was_not(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print("seed", seed)
    matrix = Matrix(seed, tmp_path, print)
    matrix.run(replace(TRAINING, steps=60), CELLS)
    assert not matrix.wrong
    assert not matrix.unmet
    assert len(matrix.done) == len(CELLS)

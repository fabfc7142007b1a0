"""Kills whatever a run is made of, in whatever it is doing, and looks what has become of it.

    python -m tests.chaos.kill_matrix [--kills N] [--seed N] [--victims driver,rank,...]

A kill is of a cell (victim, phase). Runs of tiny jobs, whose storage is an S3 behind a proxy, are
killed at random moments of the phases until all cells have had their kills: one run bears many.
Then each run must have ended as one that nobody has disturbed: the same losses, the same weights,
no committed step lost, one final event, nothing torn, no process left, and after `gc` no garbage.
The storage's death is an outage of all connections, of 1 to 20 s. Prints the seed; exits with 1
unless all is as it should be.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.kill_jobs import write_rollouts, write_training
from tests.chaos.kill_life import Cell, Life, Victim, raysmith
from tests.chaos.kill_traps import Phase
from tests.chaos.kill_witness import Outcome, Store, faults
from tests.ray_head import ray_head
from tests.s3_server import CREDENTIALS, s3_client, s3_process

ROUNDS = {
    Victim.DRIVER: 2,
    Victim.RANK: 3,
    Victim.RAYLET: 1,
    Victim.STORAGE: 4,
    Victim.CLIENT: 4,
    Victim.ACTOR: 1,
}
"""How often each phase of a victim is in a matrix of a hundred kills."""
_TRIES = 6
_ENOUGH = 5
"""After so many findings there is no use in going on."""
_PHASES = tuple(phase for phase in Phase if phase is not Phase.AT_THE_END)
_LAST = (Phase.BETWEEN_STAGES, Phase.AT_THE_END)


@dataclass(frozen=True)
class Kind:
    """Runs of one job, started in one way."""

    name: str
    victims: tuple[Victim, ...]
    write: Callable[[Path, int], Path]
    steps: int
    stages: tuple[str, ...]
    """Those that train."""


TRAINING = Kind(
    "training", (Victim.DRIVER, Victim.RANK, Victim.RAYLET, Victim.STORAGE),
    write_training, 160, ("sft",),
)  # fmt: skip
SUBMITTED = Kind("submitted", (Victim.CLIENT,), write_training, 160, ("sft",))
ROLLOUTS = Kind("rollouts", (Victim.ACTOR,), write_rollouts, 40, ("rl", "more"))
KINDS = (TRAINING, SUBMITTED, ROLLOUTS)


class Matrix:
    """The kills that are to be done, and what came of them."""

    def __init__(self, seed: int, folder: Path, say: Callable[[str], None]) -> None:
        self._draw = random.Random(seed)
        self._folder, self._say = folder, say
        self._lives = 0
        self.done: list[tuple[Cell, float | None]] = []
        self.unmet: list[Cell] = []
        self.wrong: list[str] = []

    def run(self, kind: Kind, cells: Sequence[Cell]) -> None:
        """Does the kills of one kind of runs."""
        left = list(cells)
        self._draw.shuffle(left)
        tries = dict.fromkeys(left, 0)
        reference = self._reference(kind)
        while left and len(self.wrong) < _ENOUGH:
            self._live(kind, left, reference, tries)

    def _reference(self, kind: Kind) -> Outcome:
        began = time.monotonic()
        with self._life(kind) as life:
            life.finish()
            self.wrong += life.wrong
            outcome = Outcome.of(life.store, kind.stages)
        self._say(f"{kind.name}: undisturbed in {time.monotonic() - began:.0f} s")
        return outcome

    def _live(
        self, kind: Kind, left: list[Cell], reference: Outcome, tries: dict[Cell, int]
    ) -> None:
        """One run, and as many of the kills as it gives occasion to."""
        with self._life(kind) as life:
            ordered = _in_order(left)
            for cell, following in zip_longest(ordered, ordered[1:]):
                if life.over:
                    break
                if life.kill_at(cell, again=_twice(cell, following)):
                    left.remove(cell)
                    continue
                tries[cell] += 1
                self._say(f"{cell}: the moment did not come")
                if tries[cell] >= _TRIES:
                    left.remove(cell)
                    self.unmet.append(cell)
            life.finish()
            life.collect_garbage()
            self.done += life.done
            wrong = life.wrong or faults(life.store, life.kills, reference)
            kept = self._folder / f"life-{self._lives}"
            self.wrong += [f"{kind.name}: {each}; see {kept}" for each in wrong]
            self._say(f"{kind.name}: {'NOT ' * bool(wrong)}as undisturbed")

    @contextmanager
    def _life(self, kind: Kind) -> Iterator[Life]:
        self._lives += 1
        folder = self._folder / f"life-{self._lives}"
        with ExitStack() as stack:
            upstream = stack.enter_context(s3_process())
            client = s3_client(upstream)
            client.create_bucket(Bucket="runs")
            proxy = FaultProxy(upstream, rate=0, seed=0)
            stack.enter_context(proxy.running())
            spec = kind.write(folder, kind.steps)
            environment = {
                **os.environ, **CREDENTIALS,
                "AWS_ENDPOINT_URL": proxy.address,
                "PYTHONPATH": os.pathsep.join((str(Path.cwd()), str(folder))),
                "HF_HUB_OFFLINE": "1",
            }  # fmt: skip
            start, stop = raysmith("run", str(spec)), raysmith("stop")
            if kind is SUBMITTED:
                copies = {"XDG_CACHE_HOME": str(folder / "cluster")}
                head = stack.enter_context(ray_head(environment | copies))
                environment = dict(head.environment)
                to = ("--address", head.url)
                start = raysmith("submit", str(spec), *to, "--follow", "--no-working-dir")
            life = Life(
                folder / "life", Store(client, "runs"), proxy, self._draw, start, stop,
                environment, self._say,
            )  # fmt: skip
            try:
                yield life
            finally:
                life.end()


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """As a run comes to their phases; before the first checkpoint the driver dies, and another."""
    first = [cell for cell in cells if cell.phase is Phase.BEFORE_FIRST]
    drivers = [cell for cell in first if cell.victim is Victim.DRIVER]
    others = [cell for cell in first if cell not in drivers]
    last = sorted((c for c in cells if c.phase in _LAST), key=lambda cell: _LAST.index(cell.phase))
    between = [cell for cell in cells if cell not in first and cell not in last]
    return [*drivers[:2], *others[:1], *between, *last]


def _twice(cell: Cell, following: Cell | None) -> bool:
    """Whether the run is killed again before it has recovered."""
    both = {cell.phase, following.phase} if following else set()
    return both == {Phase.BEFORE_FIRST} and cell.victim is Victim.DRIVER


def matrix(victims: Sequence[Victim]) -> list[Cell]:
    """All cells of the victims, those that cost least most often."""
    weights = {victim: ROUNDS[victim] for victim in victims}
    found = [Cell(v, p) for v, rounds in weights.items() for p in _PHASES for _ in range(rounds)]
    return [*found, *[Cell(v, Phase.AT_THE_END) for v in victims if v is Victim.DRIVER]]


def _victims(text: str) -> list[Victim]:
    return [Victim(name) for name in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, help="so many of the cells, drawn; all by default")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    names = ",".join(Victim)
    parser.add_argument(
        "--victims", type=_victims, default=names, help=f"of {names}; all by default"
    )
    options = parser.parse_args()
    wanted = matrix(options.victims)
    if options.kills:
        wanted = random.Random(options.seed).sample(wanted, min(options.kills, len(wanted)))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    print(f"seed {options.seed}, {len(wanted)} kills", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    run = Matrix(options.seed, folder, say)
    for kind in KINDS:
        if chosen := [cell for cell in wanted if cell.victim in kind.victims]:
            run.run(kind, chosen)
    _report(run)
    if not run.wrong:
        shutil.rmtree(folder)
    return 1 if run.wrong or run.unmet else 0


def _report(run: Matrix) -> None:
    for victim in Victim:
        seconds = sorted(took_s or 0 for cell, took_s in run.done if cell.victim is victim)
        if seconds:
            middle, longest = seconds[len(seconds) // 2], seconds[-1]
            print(
                f"  {len(seconds):3} {victim}: recovered in {middle:.0f} s, {longest:.0f} at most"
            )
    for cell in run.unmet:
        print(f"NOT DONE: {cell}: its moment did not come")
    for line in run.wrong:
        print(f"WRONG: {line}")
    print(f"{len(run.done)} kills; {'NOT all' if run.wrong else 'all'} is as it should be")


if __name__ == "__main__":
    sys.exit(main())

"""One run, killed again and again until it has succeeded all the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from cluster import guardian
from jobs.observed import timestamp, utc_now
from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.kill_traps import HELD_S, Phase, Trap
from tests.chaos.kill_witness import Kill, Store

RECOVERS_S = 180.0
"""How long after a kill at most the next commit may come."""
_SPRINGS_S = 150.0
_BORN_S = 60.0
_ENDS_S = 600.0
_LONGEST_OUTAGE_S = 20.0
_MOVES = 0.3
"""How often a run goes on on another machine."""
STORAGE = "s3://runs/team"
_STEP = re.compile(r"step \d+/")
_TOKEN = "RAYSMITH_KILLED_LIFE"


class Victim(StrEnum):
    """What is killed."""

    DRIVER = "driver"
    RANK = "rank"
    ACTOR = "actor"
    RAYLET = "raylet"
    STORAGE = "storage"
    CLIENT = "client"


@dataclass(frozen=True)
class Cell:
    """One kill of the matrix."""

    victim: Victim
    phase: Phase

    @property
    def ends_attempt(self) -> bool:
        """Whether what is committed after the kill is another attempt's.

        Ray Train itself starts ranks again that die before they have begun to train.
        """
        if self.victim is Victim.RANK:
            return self.phase is not Phase.BEFORE_FIRST
        return self.victim in (Victim.DRIVER, Victim.RAYLET)

    def __str__(self) -> str:
        return f"{self.victim} {self.phase}"


@dataclass
class Life:
    """A run through a proxy before its store; `command` starts it and goes on with it alike."""

    folder: Path
    store: Store
    proxy: FaultProxy
    draw: random.Random
    command: list[str]
    stop_command: list[str]
    environment: Mapping[str, str]
    say: Callable[[str], None]
    done: list[tuple[Cell, float | None]] = field(default_factory=list)
    """The kills that were done, and after how many seconds each was recovered from; None: the next
    kill came before."""
    kills: list[Kill] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _launches: int = 0
    _machines: int = 0
    _folders: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._launch()

    def kill_at(self, cell: Cell, *, again: bool = False) -> bool:
        """Waits for the moment, kills, and sees the run recover. False: the moment did not come.

        `again`: it is killed again before it has recovered.
        """
        trap = Trap(cell.phase, self.draw)
        asked = None
        self.proxy.watcher = trap.watch
        try:
            if cell.phase is Phase.BEFORE_FIRST:
                self._before_first(trap, cell.victim)
            elif cell.phase is Phase.DURING_STOP:
                if not self._trains():
                    return False
                asked = self._start(self.stop_command, "stop")
            if not self._until(trap):
                if asked:
                    asked.kill()
                    if self._process.wait():  # It has stopped too quickly.
                        self._launch()
                return False
            if cell.phase is Phase.BEFORE_FIRST and self.store.newest_steps():
                return False
            if not self._kill(cell, asked):
                return False
        finally:
            trap.close()
            self.proxy.watcher = None
        if again:
            self._process.wait()
            self._launch()
            self.done.append((cell, None))
            self.say(f"{cell}: killed again before it has recovered")
        else:
            self._see_recovery(cell)
        if asked:
            asked.wait()
        return True

    def finish(self) -> None:
        """Waits for the run's end, and that nothing of it is left."""
        try:
            code = self._process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"the run does not end; see {self._log}")
            return
        if code:
            self.wrong.append(f"the run ended with {code}; see {self._log}")
        deadline = time.monotonic() + 30
        while (left := self._orphans()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.wrong += [f"a process is left: {process}" for process in left]

    def collect_garbage(self) -> None:
        """Has `raysmith gc` remove what killed attempts left."""
        collect = self._start(raysmith("gc"), "gc")
        if code := collect.wait(_ENDS_S):
            self.wrong.append(f"gc ended with {code}; see {self.folder}/gc.log")
        self.wrong += [f"gc has left {folder}" for folder in self.store.unfinished()]

    def end(self) -> None:
        """Ends what is left of the run, whatever it is at."""
        for process in self._mine():
            process.kill()
        for folder in self._folders:
            guardian.end(Path(folder))

    @property
    def over(self) -> bool:
        """Whether the run has come to its end, or can't any more."""
        return bool(self.wrong) or self._process.poll() == 0

    def _launch(self) -> None:
        """Starts the run, or goes on with it: now and then on another machine."""
        if self._launches and self.draw.random() < _MOVES:
            self._machines += 1
        self._launches += 1
        self._log = self.folder / f"launch_{self._launches}.log"
        self._process = self._start(self.command, self._log.stem)

    def _start(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        # A machine is, as far as raysmith can tell, what it has a copy of the store on.
        copies = self.folder / f"machine_{self._machines}"
        copies.mkdir(exist_ok=True)
        mark = {_TOKEN: str(self.folder), "XDG_CACHE_HOME": str(copies)}
        with (self.folder / f"{name}.log").open("ab") as output:
            return subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**self.environment, **mark},
            )  # fmt: skip

    def _before_first(self, trap: Trap, victim: Victim) -> None:
        """Some time after the start; where the victim is to be born first, after that."""
        self._await(victim)
        trap.spring_within(20.0 if victim in (Victim.DRIVER, Victim.CLIENT) else 4.0)

    def _await(self, victim: Victim) -> list[int]:
        deadline = time.monotonic() + _BORN_S
        while not (pids := self._pids(victim)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return pids

    def _trains(self) -> bool:
        """Waits until this launch has done a step; False where the run ends before."""
        deadline = time.monotonic() + _SPRINGS_S
        while not _STEP.search(self._log.read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _until(self, trap: Trap) -> bool:
        deadline = time.monotonic() + _SPRINGS_S
        while not trap.wait(0.2):
            code = self._process.poll()
            if code and trap.phase is not Phase.DURING_STOP:
                self.wrong.append(f"the run ended by itself with {code}; see {self._log}")
            if code is not None or time.monotonic() > deadline:
                return False
        return True

    def _kill(self, cell: Cell, asked: subprocess.Popen[bytes] | None) -> bool:
        """Kills; False where there is nothing to kill any more."""
        attempts = self.store.attempts()
        if cell.victim is Victim.STORAGE:
            self.proxy.outage(self.draw.uniform(1, _LONGEST_OUTAGE_S))
        else:
            pids = [asked.pid] if asked and cell.victim is Victim.CLIENT else []
            pids = pids or self._pids(cell.victim, cell.phase)
            if cell.phase is Phase.BETWEEN_STAGES and not pids:
                pids = self._await(cell.victim)
            if not pids:
                return False
            self._note_folders()
            try:
                os.kill(self.draw.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return False
        self._killed_at = time.monotonic()
        # What was on its way to the store arrives.
        time.sleep(2 * HELD_S)
        self.kills.append(Kill(timestamp(utc_now()), self.store.newest_steps(), attempts))
        return True

    def _see_recovery(self, cell: Cell) -> None:
        before = {marker.key for marker in self.store.markers()}
        relaunches = 0
        while (took_s := time.monotonic() - self._killed_at) < RECOVERS_S:
            code = self._process.poll()
            if code == 0 and cell.phase is not Phase.DURING_STOP:
                break
            if code is not None and not self._has_succeeded():
                relaunches += 1
                if relaunches > 3:
                    self.wrong.append(f"{cell}: ends again and again; see {self._log}")
                    return
                self._launch()
                before = {marker.key for marker in self.store.markers()}
            elif code is not None:
                self._launch()
                self._process.wait(RECOVERS_S)
                break
            new = [marker for marker in self.store.markers() if marker.key not in before]
            if cell.ends_attempt:
                new = [marker for marker in new if self.store.is_newer(marker, self.kills[-1])]
            # What is asked to stop commits; it has recovered when it goes on after that.
            if new and (relaunches or cell.phase is not Phase.DURING_STOP):
                break
            time.sleep(0.5)
        else:
            self.wrong.append(f"{cell}: no commit {RECOVERS_S:g} s after it; see {self._log}")
        self.done.append((cell, took_s))
        self.say(f"{cell}: recovered after {took_s:.0f} s")

    def _has_succeeded(self) -> bool:
        return any("~succeeded~" in key for key in self.store.all_keys())

    def _pids(self, victim: Victim, phase: Phase = Phase.MID_STEP) -> list[int]:
        if victim is Victim.STORAGE:
            return [os.getpid()]  # It is always there.
        if victim in (Victim.DRIVER, Victim.CLIENT):
            return [self._process.pid] if self._process.poll() is None else []
        family = self._family()
        pids = [process.pid for process in family if _is(victim, process)]
        if victim is Victim.RANK and phase is Phase.BETWEEN_STAGES and not pids:
            return [process.pid for process in family if _title(process).startswith("ray::")]
        return pids

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _note_folders(self) -> None:
        """Remembers where this launch's Ray lies, to find what is left of it."""
        for process in self._mine():
            try:
                if folder := process.environ().get(guardian.MARK):
                    self._folders.add(folder)
            except psutil.Error:
                continue

    def _mine(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if _has_mark(p, str(self.folder))]

    def _orphans(self) -> list[str]:
        titled = {pid for folder in self._folders for pid in guardian.processes_of(Path(folder))}
        found = {process.pid for process in self._mine()} | titled
        return [_told(pid) for pid in found]


def _is(victim: Victim, process: psutil.Process) -> bool:
    part = {Victim.RAYLET: "/raylet ", Victim.ACTOR: "ray::RolloutActor"}
    return part.get(victim, "RayTrainWorker") in _title(process)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _has_mark(process: psutil.Process, folder: str) -> bool:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and process.environ().get(_TOKEN) == folder
    except psutil.Error:
        return False


def _told(pid: int) -> str:
    return f"{pid} {_title(psutil.Process(pid))[:120]}" if psutil.pid_exists(pid) else str(pid)


def raysmith(*arguments: str) -> list[str]:
    """How `raysmith` is started on the store."""
    return [sys.executable, "-m", "jobs.cli", *arguments, "--storage", STORAGE]

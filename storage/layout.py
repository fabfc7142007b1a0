"""Every path of a run, and nowhere else.

    <root>/<name>/<run_id>/
      spec.yaml  plan.json  lock.json  status.json  events.jsonl
      stages/<stage>/attempt_<k>/{driver.log, worker_<rank>.log, logging.jsonl, progress.json,
                                  args.json, end_request, runs/, images/, and of a pool of engines:
                                  rollout_<index>.log, rollout_events.jsonl, completions.jsonl,
                                  failures.jsonl, timeline.jsonl, adapters/, engines/<model>/;
                                  of a service: service.json, replica_<release>.log}
      stages/<stage>/checkpoint-<step>/   (commit protocol)
      stages/<stage>/data/                (commit protocol)
      stages/<stage>/scratch/             (only while the stage works)
      stages/<stage>/models/<model>/{data/, answers/}   (data: commit protocol)
      stages/<stage>/stop_request
      stages/<stage>/updates/             (of a service)
      stages/<stage>/{trials.jsonl, trials.csv, best.yaml, shared/, trials/}   (of a sweep)
      stages/<stage>/trials/trial_<index>/{artifact/, order, takeover.json, and what a stage has}
      artifacts/<stage>/                  (commit protocol)
    <root>/_index/                        see `storage.index`

Nothing here creates or changes a file. Below a working copy, folders that are in the store alone
are found too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.names import check_name, contained, is_name
from storage.working_copy import place_of

_CHECKPOINT: Final = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class AttemptLayout:
    """The folder of one try at a stage: what it said and measured."""

    folder: Path

    @property
    def driver_log(self) -> Path:
        """What the stage's driver printed."""
        return self.folder / "driver.log"

    @property
    def logging_jsonl(self) -> Path:
        """One JSON object of metrics for each logged step."""
        return self.folder / "logging.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard event files."""
        return self.folder / "runs"

    @property
    def images(self) -> Path:
        """The folder of plotted curves."""
        return self.folder / "images"

    @property
    def args_json(self) -> Path:
        """The resolved arguments that the attempt ran with."""
        return self.folder / "args.json"

    @property
    def end_request(self) -> Path:
        """Asks the attempt's train workers to end at once, with nothing saved."""
        return self.folder / "end_request"

    def worker_process(self, rank: int) -> Path:
        """Where the train worker of this rank runs: its node and process id."""
        return self.folder / f"worker_{rank}.json"

    def worker_processes(self) -> list[Path]:
        """The files of all train workers that have started."""
        return sorted(self.folder.glob("worker_*.json"))

    @property
    def progress_json(self) -> Path:
        """The newest progress that training pushed."""
        return self.folder / "progress.json"

    @property
    def completions_jsonl(self) -> Path:
        """One JSON object for each completion that was scored."""
        return self.folder / "completions.jsonl"

    @property
    def failures_jsonl(self) -> Path:
        """One JSON object for each completion that could not be written or scored."""
        return self.folder / "failures.jsonl"

    @property
    def rollout_events_jsonl(self) -> Path:
        """What happened to the engines that write completions."""
        return self.folder / "rollout_events.jsonl"

    @property
    def timeline_jsonl(self) -> Path:
        """When generation, rewards, training and weight updates took place."""
        return self.folder / "timeline.jsonl"

    @property
    def adapters(self) -> Path:
        """The folder of adapters on their way to engines."""
        return self.folder / "adapters"

    def engine_logs(self, model: str) -> Path:
        """The folder of what the engines of a model printed. Raises UserError for a bad name."""
        return self.folder / "engines" / check_name(model, "model name")

    @property
    def service_json(self) -> Path:
        """Where the stage answers requests, while it does."""
        return self.folder / "service.json"

    def worker_log(self, rank: int) -> Path:
        """What the worker of this rank printed."""
        return self.folder / f"worker_{rank}.log"

    def replica_log(self, release: int) -> Path:
        """What the replicas of a service's release printed."""
        return self.folder / f"replica_{release}.log"

    def rollout_log(self, index: int) -> Path:
        """What the engine in this place of the pool printed."""
        return self.folder / f"rollout_{index}.log"


@dataclass(frozen=True)
class AnswersLayout:
    """The folder of what one model answers to a dataset, shared by a stage's attempts."""

    folder: Path

    @property
    def data(self) -> Path:
        """The folder of the tokenized prompts."""
        return self.folder / "data"

    @property
    def answers(self) -> Path:
        """The folder of the answers, a file to a chunk of rows."""
        return self.folder / "answers"


@dataclass(frozen=True)
class StageLayout:
    """The folder of one stage in one run, shared by its attempts."""

    folder: Path

    @property
    def run(self) -> "RunLayout":
        """The run that the stage is part of."""
        return RunLayout(self.folder.parent.parent)

    @property
    def scratch(self) -> Path:
        """A folder for what the stage needs only while it works."""
        return self.folder / "scratch"

    @property
    def data(self) -> Path:
        """The folder of the tokenized data set."""
        return self.folder / "data"

    @property
    def updates(self) -> Path:
        """The folder of requests to serve another model, and of what came of them."""
        return self.folder / "updates"

    @property
    def stop_request(self) -> Path:
        """A file whose presence asks the stage to commit a checkpoint and end."""
        return self.folder / "stop_request"

    @property
    def trials_jsonl(self) -> Path:
        """One JSON object for each thing that happened in a sweep."""
        return self.folder / "trials.jsonl"

    @property
    def trials_csv(self) -> Path:
        """The table of a sweep's trials."""
        return self.folder / "trials.csv"

    @property
    def best_spec(self) -> Path:
        """A sweep's best trial as a job of its own."""
        return self.folder / "best.yaml"

    @property
    def shared_data(self) -> Path:
        """The folder of the tokenized data sets that trials share."""
        return self.folder / "shared"

    def trial(self, index: int) -> "TrialLayout":
        """The folder of a sweep's trial, numbered from 0."""
        return TrialLayout(self.folder / "trials" / f"trial_{index:04d}")

    def model(self, name: str) -> AnswersLayout:
        """The folder of a model that the stage asks. Raises UserError for a bad name."""
        return AnswersLayout(self.folder / "models" / check_name(name, "model name"))

    @property
    def attempts(self) -> int:
        """How many attempts have a folder; the newest has this number."""
        return sum(1 for folder in _folders(self.folder) if folder.name.startswith("attempt_"))

    def attempt(self, number: int) -> AttemptLayout:
        """The folder of an attempt, numbered from 1. Raises ValueError below that."""
        if number < 1:
            raise ValueError(f"attempts are numbered from 1, not {number}")
        return AttemptLayout(self.folder / f"attempt_{number}")

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint taken after `step` steps. Raises ValueError below 0."""
        if step < 0:
            raise ValueError(f"a checkpoint has a step of 0 or more, not {step}")
        return self.folder / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """The checkpoint folders on disk, committed or not, lowest step first."""
        found: list[tuple[int, Path]] = []
        for folder in _folders(self.folder):
            match = _CHECKPOINT.fullmatch(folder.name)
            if match is not None:
                found.append((int(match.group(1)), folder))
        return [folder for _, folder in sorted(found)]


@dataclass(frozen=True)
class TrialLayout(StageLayout):
    """The folder of one trial of a sweep: what a stage of its kind has, and more."""

    @property
    def artifact(self) -> Path:
        """The folder of the model that the trial leaves."""
        return self.folder / "artifact"

    @property
    def order(self) -> Path:
        """Why the trial is asked to end before its time."""
        return self.folder / "order"

    @property
    def takeover(self) -> Path:
        """The trial whose checkpoint this one goes on from."""
        return self.folder / "takeover.json"


@dataclass(frozen=True)
class RunLayout:
    """The folder of one run."""

    folder: Path

    @property
    def full_name(self) -> str:
        """What tells the run from all others of its root: `name/run_id`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def spec(self) -> Path:
        """The spec as the user wrote it."""
        return self.folder / "spec.yaml"

    @property
    def plan(self) -> Path:
        """The resolved plan, without secrets."""
        return self.folder / "plan.json"

    @property
    def lock(self) -> Path:
        """Git revision, versions, digests of model and data."""
        return self.folder / "lock.json"

    @property
    def status(self) -> Path:
        """What the controller observed last."""
        return self.folder / "status.json"

    @property
    def stop_request(self) -> Path:
        """How often, and which driver, was asked to stop the run."""
        return self.folder / "stop_request"

    @property
    def events(self) -> Path:
        """One JSON object for each thing that happened."""
        return self.folder / "events.jsonl"

    @property
    def root(self) -> Path:
        """The storage root that the run lies in."""
        return self.folder.parent.parent

    def stage(self, stage: str) -> StageLayout:
        """The folder of a stage. Raises UserError for a bad name or one that leads outside."""
        return StageLayout(contained(self.folder, "stages", check_name(stage, "stage name")))

    def artifact(self, stage: str) -> Path:
        """The folder of what a stage leaves for others. Raises UserError like `stage`."""
        return contained(self.folder, "artifacts", check_name(stage, "stage name"))


def run_of(artifact: Path) -> RunLayout:
    """The run whose stage left an artifact in this folder."""
    return RunLayout(artifact.parent.parent)


@dataclass(frozen=True)
class Layout:
    """A storage root on a local or mounted disk."""

    root: Path

    def run(self, name: str, run_id: str) -> RunLayout:
        """The folder of a run. Raises UserError for a bad name or one that leads outside."""
        check_name(name, "run name")
        check_name(run_id, "run id")
        return RunLayout(contained(self.root, name, run_id))

    def names(self) -> list[str]:
        """The run names under the root, in alphabetical order."""
        return sorted(folder.name for folder in _folders(self.root) if is_name(folder.name))

    def runs(self, name: str) -> list[str]:
        """The ids of the runs called `name`, newest first; the spec is written when one starts.

        Raises UserError for a bad name.
        """
        folder = contained(self.root, check_name(name, "run name"))
        found = [RunLayout(path) for path in _folders(folder) if is_name(path.name)]
        found.sort(key=lambda run: (_born_ns(run), run.folder.name), reverse=True)
        return [run.folder.name for run in found]


def _folders(parent: Path) -> Iterator[Path]:
    names: set[str] = set()
    if place := place_of(parent):
        names.update(place.store.folders(place.prefix))
    # Links are left out: `contained` would refuse those that lead outside.
    if parent.is_dir():
        names.update(p.name for p in parent.iterdir() if p.is_dir() and not p.is_symlink())
    for name in sorted(names):
        yield parent / name


def _born_ns(run: RunLayout) -> int:
    for path in (run.spec, run.folder):
        if path.exists():
            return path.stat().st_mtime_ns
    return 0  # in a store alone

"""A turn of a trial: it trains on from its checkpoint until its end, or an order to stop."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from jobs.errors import RaysmithError, UserError
from jobs.load.unknown_keys import nearest
from jobs.plan.inputs import with_datasets
from jobs.plan.resolve import StagePlan
from jobs.plan.sweep import metric_names, trial_spec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec
from jobs.state import FailureClass
from storage.committed import newest_committed, present, read_committed
from storage.layout import StageLayout
from storage.manifest import Owner
from workloads import WORKLOADS, load_function
from workloads.advance import committed
from workloads.context import Shared, StageContext, StageResult
from workloads.failures import Retries, classify
from workloads.process_log import log_file
from workloads.sweep.board import write_hparams
from workloads.sweep.takeover import take_over
from workloads.sweep.trials import STEP, TrialState
from workloads.train.checkpoint import STATE_FILE
from workloads.train.stage import publish, start_model

if TYPE_CHECKING:
    from workloads.train.crew import Crew

_POLL_S = 0.05

log = logging.getLogger("raysmith")


@dataclass(frozen=True)
class TrialCluster:
    """The share of the cluster that one trial has."""

    cpus: int
    """CPU cores of each of its processes."""
    is_local: bool

    def connect(self) -> None:
        """Does nothing: the process of a trial is one of Ray's."""

    def cpus_per_worker(self, workers: int) -> int:  # noqa: ARG002
        """See `Cluster`."""
        return self.cpus

    @property
    def own_address(self) -> str:
        """See `Cluster`."""
        import ray

        return "127.0.0.1" if self.is_local else str(ray.util.get_node_ip_address())


@dataclass(frozen=True)
class SweepTask:
    """What all turns of a sweep's trials are told."""

    stage: StagePlan
    seed: int
    base_folders: tuple[str, ...]
    owner: Owner
    layout: StageLayout
    inputs: Mapping[str, Path]
    cluster: TrialCluster

    @property
    def spec(self) -> SweepSpec:
        """The sweep's spec."""
        assert isinstance(self.stage.spec, SweepSpec)
        return self.stage.spec


class MetricMissing(UserError):
    """No trial of the sweep can report the metric."""


class Turn:
    """Trains in a thread of its own; what it reports and comes to is asked for from another."""

    def __init__(
        self, task: SweepTask, index: int, values: Mapping[str, Any], reported: int, crew: Crew
    ) -> None:
        """`reported` is the step up to which the trial's reports are known."""
        self._task, self._index, self._values, self._crew = task, index, values, crew
        self._layout = task.layout.trial(index)
        self._reported = reported
        self._records: deque[dict[str, Any]] = deque()
        self._log: _Tail | None = None
        self._has_reported = reported > 0
        self._expected: tuple[str, ...] = ()
        self._missing: MetricMissing | None = None
        self._recoveries = 0
        self._ended: dict[str, Any] | None = None
        self._began = time.monotonic()
        self._layout.folder.mkdir(parents=True, exist_ok=True)
        self._layout.stop_request.unlink(missing_ok=True)
        self._layout.order.unlink(missing_ok=True)
        self._thread = Thread(target=self._run, name=f"trial-{index}", daemon=True)
        self._thread.start()

    def wait(self) -> dict[str, Any]:
        """The next report; how the turn ended, with its `state`, when there is no more."""
        while True:
            is_over = self._ended is not None
            record = self._next_record()
            if record:
                return record
            if is_over and self._ended:
                # Training may have ended by itself before it was seen that the metric is missing.
                return {**self._ended, **(_failed(self._missing) if self._missing else {})}
            time.sleep(_POLL_S)

    def _next_record(self) -> dict[str, Any] | None:
        tail = self._log
        self._records.extend(tail.read() if tail else ())
        while self._records:
            record = self._records.popleft()
            self._look_for_metric(record)
            if record[STEP] > self._reported and self._task.spec.metric in record:
                self._reported = record[STEP]
                metrics = {key: value for key, value in record.items() if key not in _NO_METRICS}
                return {
                    STEP: record[STEP],
                    "max_steps": record["max_steps"],
                    "metrics": metrics,
                    self._task.spec.metric: record[self._task.spec.metric],
                }
        return None

    def _run(self) -> None:
        try:
            ended = self._train()
        except BaseException as error:  # noqa: BLE001 - becomes the outcome of the trial
            log.error("".join(traceback.format_exception(error)))
            ended = _failed(error)
        seconds = round(time.monotonic() - self._began, 3)
        self._ended = {**ended, "seconds": seconds, "recoveries": self._recoveries, "done": True}

    def _train(self) -> dict[str, Any]:
        retries = Retries(self._task.spec.trial.retry, committed(self._layout))
        while True:
            try:
                return self._attempt()
            except Exception as error:
                wait_s = retries.wait_s(classify(error), committed(self._layout))
                if wait_s is None:
                    raise
                self._recoveries += 1
                log.warning("%s; the trial is tried again", error)
                time.sleep(wait_s)

    def _attempt(self) -> dict[str, Any]:
        context = self._context()
        with log_file(context.attempt):
            if (step := take_over(self._task.layout, self._layout, context.owner)) is not None:
                # What the checkpoint says of earlier steps was the other trial's.
                self._reported = step
            assert isinstance(context.stage.spec, SftSpec | GrpoSpec)
            self._expected = metric_names(context.stage.spec)
            self._follow(context)
            result: StageResult = load_function(WORKLOADS[context.stage.kind].run)(context)
            context.event("timings", seconds=dict(result.timings))
            self._tell_board(context)
            if result.finished:
                return _outcome(TrialState.FINISHED)
            state, reason = read_order(self._layout.order)
            if state is TrialState.STOPPED:
                self._publish(context)
            return _outcome(state, reason)

    def _context(self) -> StageContext:
        task, layout = self._task, self._layout
        number = layout.attempts + 1
        attempt = layout.attempt(number)
        attempt.folder.mkdir(parents=True)
        inputs = {field.removeprefix("trial."): path for field, path in task.inputs.items()}
        spec = trial_spec(task.spec, self._values)
        name = f"{task.stage.name}-{layout.folder.name}"
        stage = StagePlan(name, spec, (), {}, spec.produces)
        shared = Shared(self._crew, task.layout.shared_data, task.owner)
        return StageContext(
            stage=with_datasets(stage, inputs),
            seed=task.seed,
            base_folders=task.base_folders,
            owner=Owner(task.owner.run_id, name, task.owner.key, number),
            layout=layout,
            attempt=attempt,
            artifact=layout.artifact,
            inputs=inputs,
            cluster=task.cluster,
            event=lambda kind, **fields: log.info("%s %s", kind, fields),
            note=log.info,
            # Engines of GRPO keep groups with their workers, which must end with the trial.
            shared=shared if isinstance(spec, SftSpec) else None,
        )

    def _follow(self, context: StageContext) -> None:
        """Reads what training records, beginning with what the checkpoint says was recorded."""
        newest = newest_committed(self._layout.checkpoints())
        if newest:
            state = json.loads((present(newest.folder) / STATE_FILE).read_text())
            self._records.extend(state.get("log_history", ()))
        self._log = _Tail(context.attempt.logging_jsonl)

    def _look_for_metric(self, record: Mapping[str, Any]) -> None:
        """Ends the turn at the first record where the metric can't be expected in a later one."""
        metric = self._task.spec.metric
        self._has_reported = self._has_reported or metric in record
        if self._has_reported or self._missing or metric in self._expected:
            return
        names = [name for name in record if name not in _NO_METRICS]
        message = f"what the trials record has no metric '{metric}'"
        self._missing = MetricMissing(message, nearest(metric, names))
        self._layout.stop_request.touch()

    def _tell_board(self, context: StageContext) -> None:
        """Leaves for TensorBoard what the trial was given and has come to so far."""
        metric, path = self._task.spec.metric, context.attempt.logging_jsonl
        values = [record[metric] for record in _Tail(path).read() if metric in record]
        if values:
            write_hparams(context.attempt.tensorboard, self._values, metric, values[-1])

    def _publish(self, context: StageContext) -> None:
        """Leaves the model of a trial that was stopped before its end."""
        newest = newest_committed(self._layout.checkpoints())
        spec = context.stage.spec
        assert isinstance(spec, SftSpec | GrpoSpec)
        if newest and not read_committed(self._layout.artifact):
            publish(context, int(str(newest.manifest.meta["step"])), start_model(context, spec))


_NO_METRICS = (STEP, "max_steps", "epoch", "elapsed_time", "remaining_time")
"""What a record has besides metrics."""


class _Tail:
    """Reads the lines that are added to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines that are whole by now and were not read before."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(end)
        for line in whole.splitlines():
            yield json.loads(line)


def read_order(path: Path) -> tuple[TrialState, str]:
    """What a trial was asked to become, and why; paused where nothing says so."""
    try:
        state, _, reason = path.read_text().partition("\n")
    except FileNotFoundError:
        return TrialState.PAUSED, "asked to stop"
    return TrialState(state), reason


def lost_turn() -> dict[str, Any]:
    """The outcome of a turn whose process was lost more often than is put up with."""
    more = {"class": FailureClass.INFRASTRUCTURE.value, "remedy": None, "is_common": False}
    reason = "its process was lost again and again"
    return {**_outcome(TrialState.FAILED, reason), **more, "seconds": 0.0, "recoveries": 0}


def _outcome(state: TrialState, reason: str | None = None) -> dict[str, Any]:
    return {"state": state.value, "reason": reason}


def _failed(error: BaseException) -> dict[str, Any]:
    kind = classify(error)
    ours = error if isinstance(error, RaysmithError) else None
    text = (ours.message if ours else str(error)).strip()
    return {
        **_outcome(TrialState.FAILED, f"{kind.value}: {text or type(error).__name__}"),
        "class": kind.value,
        "remedy": ours.remedy if ours else None,
        "is_common": isinstance(error, MetricMissing),
    }

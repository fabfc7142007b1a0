"""One attempt at a stage, which works in a thread of its own."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from jobs.errors import ClusterUnfit, Interrupted, NodeLost, RaysmithError
from jobs.made_of import made_of
from jobs.notify import Tell
from jobs.observed import StageStatus, write_phase
from jobs.plan.inputs import with_datasets
from jobs.plan.resolve import Plan, StagePlan
from jobs.record import Record
from jobs.stall import Watch
from jobs.state import FailureClass, StageState
from jobs.view.terminal import View
from storage.committed import present
from storage.layout import AttemptLayout
from storage.manifest import Owner
from storage.working_copy import here
from workloads import WORKLOADS, load_function
from workloads.check import Checked
from workloads.context import SharedCluster, StageContext, StageResult
from workloads.failures import classify
from workloads.process_log import log_file

_NOTICE_S = 15.0
_TELL_EVERY_S = 30.0

log = logging.getLogger("raysmith")

Outcome = StageResult | BaseException


@dataclass(frozen=True)
class Desk:
    """What the stages of a run are worked at with."""

    plan: Plan
    checked: Checked
    """Each stage's cache key, and what it will hold in memory."""
    record: Record
    cluster: SharedCluster
    view: View
    connect: Callable[[], None]
    """Makes the cluster ready. Raises ClusterError."""
    news: Event
    """Set when an attempt has ended, so that nobody waits to look."""
    tell: Tell
    """Tells whoever wants to know of what happened."""

    def move(self, stage: StagePlan, state: StageState, **changes: Any) -> StageStatus:
        """Moves a stage in the record, and shows it."""
        status = self.record.move(stage.name, state, **changes)
        self.view.stage_changed(status)
        return status


class Attempt:
    """One try at a stage, in a thread."""

    def __init__(self, stage: StagePlan, owner: Owner, desk: Desk) -> None:
        self.outcome: Outcome | None = None
        self._stage = stage
        self._desk = desk
        self._let_go = False
        self._holder = f"{desk.plan.name}/{owner.run_id} {stage.name}"
        self.context = self._context(owner)
        self.watch = Watch(partial(desk.cluster.lost_nodes, self._holder), self.context)

    def start(self) -> None:
        """Begins to work."""
        Thread(target=self._work, name=self._stage.name, daemon=True).start()

    def let_go(self) -> None:
        """Has it say nothing more, and end where it waits for room or would begin to train."""
        self._let_go = True
        self.context.layout.stop_request.touch()

    @property
    def can_stop(self) -> bool:
        """Whether it has anything to save, or to finish, before it ends."""
        attempt, layout = self.context.attempt, self.context.layout
        trains = attempt.worker_log(0).exists() or layout.trials_jsonl.exists()
        return trains or attempt.service_json.exists()

    def _work(self) -> None:
        try:
            with log_file(self.context.attempt):
                self.outcome = self._run()
        except BaseException as error:  # noqa: BLE001 - such as of a full disk, on which logs lie
            self.outcome = self.outcome or error
        self._desk.news.set()

    def _run(self) -> Outcome:
        try:
            run = load_function(WORKLOADS[self._stage.kind].run)
            for folder in self.context.inputs.values():
                present(folder)
            context = replace(
                self.context, made_of=made_of(self._stage, self.context.inputs, self._desk.checked)
            )
            with self._room():
                result: StageResult = run(context)
        except BaseException as error:  # noqa: BLE001 - the stage sorts it
            log.error("".join(traceback.format_exception(error)))
            return self._explained(error)
        return result

    def _explained(self, error: BaseException) -> BaseException:
        """A failure with its cause: a lost node, one without the folder, or that nothing got on."""
        if self.watch.stalled:
            self.watch.stalled.__cause__ = error
            return self.watch.stalled
        kind = classify(error)
        if self._let_go or kind not in (FailureClass.INFRASTRUCTURE, FailureClass.UNKNOWN):
            return error
        # Workers may lose a peer some time before Ray finds its node dead.
        wait_s = _NOTICE_S if kind is FailureClass.INFRASTRUCTURE else 0
        cluster, folder = self._desk.cluster, self.context.attempt.folder
        lost = cluster.lost_nodes(self._holder, wait_s)
        if lost:
            found: RaysmithError = NodeLost(f"the cluster lost {', '.join(lost)}: {error}")
        elif kind is FailureClass.UNKNOWN and (blind := cluster.nodes_without(folder)):
            found = ClusterUnfit(
                f"{', '.join(blind)} has no {folder}, in which the run works: {error}",
                "name storage that all nodes have at the same path; where it is in S3, put the "
                "working copies on such a folder: the same XDG_CACHE_HOME for all nodes",
            )
        else:
            return error
        found.__cause__ = error
        return found

    def _context(self, owner: Owner) -> StageContext:
        stage, record = self._stage, self._desk.record
        run = record.layout
        layout = run.stage(stage.name)
        attempt = _new_folder(layout.attempt(owner.attempt))
        layout.stop_request.unlink(missing_ok=True)
        artifacts = {s.name: s.artifact for s in record.status.stages}
        inputs = {key: here(Path(artifacts[source] or "")) for key, source in stage.inputs.items()}
        return StageContext(
            stage=with_datasets(stage, inputs),
            seed=self._desk.plan.seed,
            base_folders=self._desk.plan.base_folders,
            owner=owner,
            layout=layout,
            attempt=attempt,
            artifact=run.artifact(stage.name),
            inputs=inputs,
            cluster=self._desk.cluster,
            event=self._event,
            note=self._note,
        )

    def _event(self, kind: str, **fields: Any) -> None:
        if not self._let_go:
            self._desk.record.event(kind, self._stage.name, **fields)

    def _note(self, text: str) -> None:
        log.info(text)
        if not self._let_go:
            self._desk.view.note(f"[{self._stage.name}] {text}")

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Waits for the stage's place on the cluster, and tells of it what is waited for."""
        context = self.context
        began, told_at, said = time.monotonic(), 0.0, ""

        def tell(reason: str) -> None:
            nonlocal told_at, said
            if self._let_go:
                raise Interrupted("stopped while it waited for room")
            text, now = f"waiting for {reason}", time.monotonic()
            write_phase(context.attempt.progress_json, text)
            if reason != said or now - told_at >= _TELL_EVERY_S:
                context.event("waiting", reason=reason, waited_s=round(now - began, 1))
                context.note(text)
                said, told_at = reason, now

        with self._desk.cluster.room(self._stage, self._holder, tell):
            if said:
                waited_s = round(time.monotonic() - began, 1)
                context.event("placed", waited_s=waited_s)
                context.note(f"there is room, after {waited_s:g} s")
            yield


def _new_folder(attempt: AttemptLayout) -> AttemptLayout:
    attempt.folder.mkdir(parents=True, exist_ok=True)
    return attempt

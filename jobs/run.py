"""`raysmith run`: puts the controller, the cluster and the terminal together."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cluster.attached import AttachedCluster
from cluster.fingerprint import SHIPPED, fingerprint
from cluster.local import LocalCluster, this_machine
from jobs.asked import KEY, Asked
from jobs.attach import attach, outcome
from jobs.controller import Controller, Job, at_work, open_record
from jobs.errors import ClusterError, ExitCode, RaysmithError, UserError
from jobs.load.loaded import LoadedSpec
from jobs.masking import SECRETS_VARIABLE, Mask, masker, secret_names
from jobs.notify import Tell, Webhook, tell_nobody, webhook_address, webhook_variable
from jobs.plan.demand import demands
from jobs.plan.fit import refuse_misfits
from jobs.plan.resolve import Plan
from jobs.record import Record
from jobs.spec.notify import NotifySpec
from jobs.submission import git_revision as revision_of
from jobs.view.closing import closing
from jobs.view.terminal import open_view
from storage.layout import Layout
from storage.mirror import Mirror
from storage.working_copy import place_of, root_of
from workloads.check import Checked, check


def run_job(
    loaded: LoadedSpec,
    plan: Plan,
    address: str | None,
    dashboard: bool,
    ship_code: bool = False,
    command: str | None = None,
    git_revision: str | None = None,
    forced: tuple[str, ...] = (),
    new: bool = False,
    attaches: bool = False,
    asked: Asked | None = None,
    run_id: str | None = None,
) -> ExitCode:
    """Runs a plan to its end and tells the user what came of it.

    `ship_code` is whether this machine's code may run on a cluster that has another version of it,
    `command` is what was typed to run it, and `git_revision` the commit that its spec is of; both
    are those of this process when absent. `forced` and `new` are as in `Job`. With `attaches`, a
    run that another process is at is followed to its end, and not refused. `asked` is kept with a
    new run; `run_id` is as in `Job`.

    Raises:
        RaysmithError: if it could not start, or was stopped at once.
    """
    started = time.monotonic()
    if not address:
        refuse_misfits(demands(plan), (this_machine(),), "this machine")
    layout = Layout(_lasting_root(plan.storage))
    checked = check(loaded, plan)
    hook = webhook_address(plan.notify, os.environ) if plan.notify else ""
    of_hook = {webhook_variable(plan.notify)} if plan.notify else set()
    os.environ[SECRETS_VARIABLE] = ",".join(sorted(secret_names(loaded.text) | of_hook))
    mask = masker((), os.environ)
    revision = git_revision or revision_of(loaded.path.parent)
    job = Job(
        plan, loaded.text, checked, _lock(revision, checked, asked), mask, forced, new, run_id
    )
    if attaches and (found := at_work(job, layout)):
        return attach(found, write=print)
    record = open_record(job, layout)
    view = open_view(record.status.stages, sys.stdout, os.environ)
    run = record.layout
    status, request = run.status.name, run.stop_request.name
    # The mirror goes on until the cluster has ended, and what its processes wrote is there.
    with (
        Mirror(run.folder, record.is_ours, frozenset({status}), (request,)),
        _told(plan.notify, hook, record, mask) as tell,
        _cluster(plan, address, dashboard, ship_code) as cluster,
        view,
    ):
        view.note(f"run {plan.name}/{record.status.run_id} in {place_of(run.folder) or run.folder}")
        for note in checked.notes:
            view.note(note)
        controller = Controller(job, record, layout, cluster, view, tell)
        controller.run()
    timings = {**controller.timings, "total": time.monotonic() - started}
    command = command or shlex.join(["raysmith", *sys.argv[1:]])
    print(closing(record.status, record.layout, timings, command))  # noqa: T201
    return _exit_code(controller)


@contextmanager
def _told(notify: NotifySpec | None, address: str, record: Record, mask: Mask) -> Iterator[Tell]:
    """Tells who wants to know, if anybody does; waits a little at the end until it is sent."""
    if not notify:
        yield tell_nobody
        return
    webhook = Webhook(address, notify.on, mask, record.event)
    try:
        yield webhook.tell
    finally:
        webhook.wait()


def _cluster(
    plan: Plan, address: str | None, dashboard: bool, ship_code: bool
) -> LocalCluster | AttachedCluster:
    if address:
        return AttachedCluster(address, ship_code=ship_code)
    specs = [stage.spec for stage in plan.stages]
    processes = max(spec.processes_at_once for spec in specs)
    cpus = max(spec.cpus_per_process or 0 for spec in specs)
    return LocalCluster(processes, cpus or None, dashboard)


def _lasting_root(storage: str) -> Path:
    """The folder of a storage, which must not be one that a Ray job has for itself.

    Raises:
        UserError: if it is.
    """
    root = root_of(storage)
    if SHIPPED in root.parts:
        raise UserError(
            f"runs would lie in {root}, which Ray removes when the job has ended",
            "say where they shall lie: --storage /a/folder/that/all/nodes/share",
        )
    return root


def _exit_code(controller: Controller) -> ExitCode:
    """As `outcome`; this process also knows the error that a run failed with."""
    failure, code = controller.failure, outcome(controller.record.status)
    if isinstance(failure, ClusterError):
        return failure.exit_code
    if isinstance(failure, RaysmithError) and code is ExitCode.FAILED:
        return failure.exit_code
    return code


def _lock(revision: str | None, checked: Checked, asked: Asked | None) -> Mapping[str, Any]:
    """What the run's results follow from."""
    return {
        KEY: asked.model_dump(mode="json") if asked else None,
        "git_revision": revision,
        "fingerprint": fingerprint(),
        "versions": {d.metadata["Name"]: d.version for d in distributions()},
        "inputs": {stage: dict(digests) for stage, digests in checked.digests.items()},
        "stage_keys": dict(checked.keys),
    }

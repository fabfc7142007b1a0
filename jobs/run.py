"""`raysmith run`: puts the controller, the cluster and the terminal together."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cluster.attached import AttachedCluster
from cluster.local import LocalCluster
from jobs.controller import Controller, Job, open_record
from jobs.errors import ExitCode, RaysmithError
from jobs.load.loaded import LoadedSpec
from jobs.masking import masker, secret_names
from jobs.plan.resolve import Plan
from jobs.state import FailureClass, RunState
from jobs.view.closing import closing
from jobs.view.terminal import open_view
from storage.layout import Layout
from storage.uri import local_root
from workloads.check import Checked, check


def run_job(loaded: LoadedSpec, plan: Plan, address: str | None, dashboard: bool) -> ExitCode:
    """Runs a plan to its end and tells the user what came of it.

    Raises:
        RaysmithError: if it could not start, or was stopped at once.
    """
    started = time.monotonic()
    layout = Layout(local_root(plan.storage))
    checked = check(loaded, plan)
    mask = masker(secret_names(loaded.text), os.environ)
    job = Job(plan, loaded.text, checked, _lock(loaded, checked), mask)
    record = open_record(job, layout)
    view = open_view(record.status.stages, sys.stdout, os.environ)
    with _cluster(plan, address, dashboard) as cluster, view:
        view.note(f"run {plan.name}/{record.status.run_id} in {record.layout.folder}")
        for note in checked.notes:
            view.note(note)
        controller = Controller(job, record, layout, cluster, view)
        state = controller.run()
    timings = {**controller.timings, "total": time.monotonic() - started}
    command = shlex.join(["raysmith", *sys.argv[1:]])
    print(closing(record.status, record.layout, timings, command))  # noqa: T201
    return _exit_code(state, controller)


def _cluster(plan: Plan, address: str | None, dashboard: bool) -> LocalCluster | AttachedCluster:
    if address:
        return AttachedCluster(address)
    specs = [stage.spec for stage in plan.stages]
    processes = max(spec.processes_at_once for spec in specs)
    cpus = max(spec.cpus_per_process or 0 for spec in specs)
    return LocalCluster(processes, cpus or None, dashboard)


def _exit_code(state: RunState, controller: Controller) -> ExitCode:
    if state is RunState.SUCCEEDED:
        return ExitCode.OK
    if state is RunState.STOPPED:
        return ExitCode.INTERRUPTED
    stages = controller.record.status.stages
    if any(stage.reason is FailureClass.USER_ERROR for stage in stages):
        return ExitCode.USER_ERROR
    failure = controller.failure
    return failure.exit_code if isinstance(failure, RaysmithError) else ExitCode.FAILED


def _lock(loaded: LoadedSpec, checked: Checked) -> Mapping[str, Any]:
    """What the run's results follow from."""
    return {
        "git_revision": _git_revision(loaded.path.parent),
        "versions": {d.metadata["Name"]: d.version for d in distributions()},
        "inputs": {stage: dict(digests) for stage, digests in checked.digests.items()},
        "stage_keys": dict(checked.keys),
    }


def _git_revision(folder: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None

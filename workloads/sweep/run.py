"""A sweep, seen from the driver: Ray Tune runs the trials, and the best one's model is kept."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from jobs.errors import RaysmithError
from jobs.observed import write_phase, write_progress
from jobs.spec.sweep import SweepSpec
from storage.commit import adopt, discard
from storage.committed import read_committed
from storage.durable import write_atomic
from workloads.context import StageContext, StageResult
from workloads.sweep.plots import draw
from workloads.sweep.report import best_spec, line, progress, tell_end
from workloads.sweep.search import proposals
from workloads.sweep.takeover import read_takeover
from workloads.sweep.trials import Trial, Trials

if TYPE_CHECKING:
    from workloads.sweep.conductor import Conductor

_MAX_LOST = 3
"""How often the process of a turn is replaced."""


def run(context: StageContext) -> StageResult:
    """Runs trials until there are enough, or a request to stop. Goes on where the record stands.

    Raises:
        UserError: if trials fail because of the spec, or none can report the metric.
        RaysmithError: if more trials fail than may, or none comes to anything.
    """
    spec = context.stage.spec
    assert isinstance(spec, SweepSpec)
    write_phase(context.attempt.progress_json, "starting trials")
    context.attempt.args_json.write_text(spec.model_dump_json(indent=2))
    clock = time.monotonic()
    shutil.rmtree(context.layout.scratch, ignore_errors=True)
    trials = Trials(context.layout.trials_jsonl, spec.metric, spec.mode)
    try:
        conductor = _conduct(context, spec, trials)
        trials.write_table(context.layout.trials_csv)
        if conductor.failure:
            raise conductor.failure
        if not conductor.interrupted:
            _keep_best(context, spec, trials)
            tell_end(context, conductor)
    finally:
        trials.close()
        shutil.rmtree(context.layout.scratch, ignore_errors=True)
    return StageResult(not conductor.interrupted, {"trials": time.monotonic() - clock})


def _conduct(context: StageContext, spec: SweepSpec, trials: Trials) -> Conductor:
    # Ray Tune takes seconds to import.
    from workloads.sweep.conductor import Conductor
    from workloads.sweep.judges import Judge

    conductor = Conductor(
        spec=spec,
        layout=context.layout,
        trials=trials,
        proposals=proposals(spec, context.seed, trials.ended),
        judge=Judge(spec, context.seed),
        gpus_per_trial=_gpus(spec),
        on_end=partial(_trial_ended, context),
    )
    for trial in trials.ended:
        context.note(f"{trial.name} has {trial.state}: kept")
    if not conductor.is_over:
        at_once = trials_at_once(context, spec, conductor.proposals.count)
        _fit(context, conductor, at_once)
    return conductor


def trials_at_once(context: StageContext, spec: SweepSpec, count: int) -> int:
    """How many trials run at the same time: as many as the spec says, and there is room for."""
    import ray

    resources, trial = ray.cluster_resources(), spec.trial
    # What a process gets at least, however many there are.
    cpus = trial.cpus_per_process or context.cluster.cpus_per_worker(sys.maxsize)
    # One core stays for the tasks that read data beside training.
    room = (resources.get("CPU", 1) - 1) / (cpus * trial.processes_at_once)
    if gpus := _gpus(spec):
        room = min(room, resources.get("GPU", 0) / gpus)
    wanted = spec.max_concurrent_trials
    if wanted and wanted > room:
        context.note(f"the cluster has room for {int(room)} trials at a time, not {wanted}")
    return max(min(int(room), wanted or count, count), 1)


def _gpus(spec: SweepSpec) -> float:
    resources = spec.trial.resources
    return resources.gpus_per_worker * resources.workers


def _fit(context: StageContext, conductor: Conductor, at_once: int) -> None:
    """Has Tune run the turns that the conductor gives, so many at a time."""
    from ray import tune

    from workloads.sweep.adapters import TuneScheduler, TuneSearcher, TuneWatch
    from workloads.sweep.runner import runner
    from workloads.sweep.turn import SweepTask, TrialCluster

    spec = conductor.spec
    processes = at_once * spec.trial.processes_at_once
    cpus = spec.trial.cpus_per_process or context.cluster.cpus_per_worker(processes)
    task = SweepTask(
        stage=context.stage,
        seed=context.seed,
        base_folders=context.base_folders,
        owner=context.owner,
        layout=context.layout,
        inputs=context.inputs,
        cluster=TrialCluster(cpus, is_local=context.cluster.own_address == "127.0.0.1"),
    )
    context.note(f"{conductor.proposals.count} trials, {at_once} at a time, {cpus} cores a process")
    scratch = context.layout.scratch / "tune"
    with _tune_environment():
        tuner = tune.Tuner(
            # The trial's workers ask for their own resources. What Tune holds for the process that
            # watches over them has to be something, and is a byte: a share of a core would be
            # missing to the tasks that read data.
            tune.with_resources(runner(task), {"memory": 1}),
            tune_config=tune.TuneConfig(
                search_alg=TuneSearcher(conductor),
                scheduler=TuneScheduler(conductor),
                num_samples=-1,
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=context.stage.name,
                storage_path=str(scratch),
                callbacks=[TuneWatch(partial(_look, context, conductor))],
                failure_config=tune.FailureConfig(max_failures=_MAX_LOST),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        tuner.fit()


@contextmanager
def _tune_environment() -> Iterator[None]:
    """Tune without its own files, tables and expectations of what a result holds."""
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "86400",
        "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _look(context: StageContext, conductor: Conductor) -> None:
    """Looks for a request to stop, and says how far the sweep is."""
    if context.layout.stop_request.exists():
        conductor.interrupt()
    conductor.look()
    write_progress(context.attempt.progress_json, progress(conductor))


def _trial_ended(context: StageContext, conductor: Conductor, trial: Trial) -> None:
    """Tells of a trial, and keeps its weights only where they are of use."""
    context.note(line(conductor.trials, trial))
    conductor.trials.write_table(context.layout.trials_csv)
    _release(context, conductor.trials)


def _release(context: StageContext, trials: Trials) -> None:
    """Deletes the weights of trials that are not the best, once they are of no use.

    A trial that still trains may look better than it will be in the end, so it doesn't count.
    """
    going_on = [trial for trial in trials.trials.values() if not trial.state.has_ended]
    wanted = [read_takeover(context.layout.trial(trial.index)) for trial in going_on]
    donors = {takeover.donor for takeover in wanted if takeover}
    best = trials.best_of(trials.ended)
    for trial in trials.ended:
        if not trial.has_weights or trial is best or trial.index in donors:
            continue
        layout = context.layout.trial(trial.index)
        for folder in (*layout.checkpoints(), layout.artifact):
            if folder.exists():
                discard(folder)
        trial.has_weights = False


def _keep_best(context: StageContext, spec: SweepSpec, trials: Trials) -> None:
    """Commits the best trial's model as the sweep's artifact, and writes its spec.

    Raises:
        RaysmithError: if no trial came to anything.
    """
    best = trials.best
    folder = context.layout.trial(best.index).artifact if best else None
    manifest = read_committed(folder) if folder else None
    if best is None or folder is None or manifest is None:
        raise RaysmithError(
            f"no trial came to a value of {spec.metric}, so there is no best one",
            f"see {context.layout.trials_csv}, and the logs of the trials beside it",
        )
    meta = context.meta(**{**manifest.meta, "trial": best.index})
    adopt(folder, manifest, context.artifact, context.owner, meta)
    write_atomic(context.layout.best_spec, best_spec(context, spec, best).encode())
    draw(trials, context.attempt.images)

"""Jobs that another cluster runs, as `status`, `logs` and `stop` deal with them from here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from jobs.errors import ClusterError, Interrupted, UserError
from jobs.options import current_profile, grace_s, needed_address, resolve_job

if TYPE_CHECKING:
    from cluster.ray_jobs import Job, RayJobs
    from jobs.load.site_profile import LoadedProfile

_TELL_EVERY_S = 10.0
_LEAST_WAIT_S = 60.0


class Elsewhere(Protocol):
    """Where jobs were submitted to. Each method prints what it has to say."""

    def status(self, name: str) -> None:
        """How a job stands."""
        ...

    def logs(self, name: str, *, follow: bool) -> None:
        """What its driver says."""
        ...

    def stop(self, name: str, *, wait: bool) -> None:
        """Stops it. Training commits a checkpoint first."""
        ...


def elsewhere(address: str | None, backend: str | None) -> Elsewhere | None:
    """The cluster that the options mean; None where they mean the storage."""
    if backend == "kuberay":
        return OnKubernetes.of_profile()
    if address or backend == "ray":
        return OnRay(needed_address(address))
    return None


def on_kubernetes(address: str | None, backend: str | None) -> bool:
    """Whether a submission goes to KubeRay: as it says, else as the profile suggests."""
    if backend:
        return backend == "kuberay"
    profile = current_profile()
    spec = profile.spec if profile else None
    return not address and spec is not None and not spec.address and spec.kubernetes is not None


class OnRay:
    """Jobs that the Jobs API of a Ray cluster knows, by submission id or name."""

    def __init__(self, address: str) -> None:
        from cluster.ray_jobs import RayJobs

        self._jobs = RayJobs(address)

    def status(self, name: str) -> None:
        """How a job stands; where its storage is reached from here, its stages too."""
        from cluster.ray_jobs import run_folder
        from jobs.observed import is_recorded, refresh
        from jobs.runs import run_at
        from jobs.view.status import duration, render_status

        job = self._jobs.named(name)
        folder = run_folder(self._jobs.log(job.id)) if job.state != "PENDING" else None
        lines = [f"{job.id}: {job.state.lower()}"]
        if job.started_s:
            lines.append(f"driver: {duration((job.ended_s or time.time()) - job.started_s)}")
        if job.message and (job.state == "PENDING" or not folder):
            lines.append(job.message)
        click.echo("\n".join(lines))
        run = run_at(folder) if folder else None
        if run and is_recorded(run):
            refresh(run)
            click.echo(render_status(run))
        elif folder:
            last = self._jobs.log(job.id).rstrip().splitlines()[-5:]
            click.echo("\n".join((f"folder: {folder} (not reached from here)", *last)))

    def logs(self, name: str, *, follow: bool) -> None:
        """What the driver says. Following ends with the job, and with its exit code."""
        job = self._jobs.named(name)
        if follow:
            raise SystemExit(follow_job(self._jobs, job.id))
        click.echo(self._jobs.log(job.id))

    def stop(self, name: str, *, wait: bool) -> None:
        """Stops a job.

        Raises:
            ClusterError: if it has not ended in time.
        """
        job = self._jobs.named(name)
        if job.is_final:
            click.echo(f"{job.id}: {job.state.lower()} already")
            return
        self._jobs.stop(job.id)
        if not wait:
            click.echo(f"{job.id}: asked to stop")
            return
        try:
            ended = self._jobs.ended(job.id, _Patience(job, self._jobs.address))
        except KeyboardInterrupt as error:
            raise Interrupted(f"{job.id} goes on stopping", "see `raysmith status`") from error
        more = "" if ended.state == "SUCCEEDED" else "; the same submit goes on from its checkpoint"
        click.echo(f"{ended.id}: {ended.state.lower()}{more}")


class _Patience:
    """Tells how long a job takes to stop, and gives up when that is too long."""

    def __init__(self, job: Job, address: str) -> None:
        self._job, self._address = job, address
        self._limit_s = grace_s(current_profile()) + _LEAST_WAIT_S
        self._told_s = 0.0

    def __call__(self, waited_s: float) -> None:
        if waited_s > self._limit_s:
            raise ClusterError(
                f"{self._job.id} has not ended within {self._limit_s:.0f} s",
                f"see {self._address} for its state",
            )
        if waited_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = waited_s
            click.echo(f"stopping: {waited_s:.0f} s", err=True)


def follow_job(jobs: RayJobs, job_id: str) -> int:
    """Shows what a driver says until it ends; returns its exit code."""
    job = jobs.follow(job_id, click.echo)
    click.echo(f"{job.id}: {job.state.lower()}")
    return job.own_exit_code


class OnKubernetes:
    """Jobs that are KubeRay's objects, by the name of the job."""

    def __init__(self, profile: LoadedProfile) -> None:
        """Raises UserError if the profile has no section `kubernetes`."""
        from cluster.kuberay.kubectl import Kubectl

        self._profile = profile
        if profile.spec.kubernetes is None:
            raise UserError(
                f"{profile.path} has no section kubernetes", "add it: k8s/profiles holds two"
            )
        self._kubectl = Kubectl(profile.spec.kubernetes)

    @staticmethod
    def of_profile() -> OnKubernetes:
        """As the current profile says. Raises UserError if there is none."""
        profile = current_profile()
        if profile is None:
            raise UserError(
                "no profile says where pods run", "give --profile FILE with a section kubernetes"
            )
        return OnKubernetes(profile)

    def submit(
        self,
        spec: Path,
        overrides: tuple[str, ...],
        storage: str,
        force_stages: tuple[str, ...],
        *,
        no_cache: bool,
        follow: bool,
    ) -> None:
        """Makes the objects of a job, or brings those that are there up to date."""
        from cluster.kuberay import documents, rules
        from jobs.plan.forced import forced_stages

        loaded, plan = resolve_job(spec, overrides, storage)
        forced = forced_stages(plan, force_stages, no_cache=no_cache)
        found = documents.render(loaded, plan, self._profile, forced)
        rules.check(found)
        for line in self._kubectl.apply(found):
            click.echo(line)
        if follow:
            self.logs(plan.name, follow=True)
            return
        where = f"{plan.name} --backend kuberay --profile {self._profile.path}"
        click.echo(f"next:\n  raysmith status {where}\n  raysmith logs -f {where}")
        click.echo(f"  raysmith stop {where}")

    def status(self, name: str) -> None:
        """How the objects of a job stand."""
        found = self._kubectl.status(_object_name(name))
        click.echo("\n".join(map(str, found)) or f"there is nothing called {_object_name(name)}")

    def logs(self, name: str, *, follow: bool) -> None:
        """What the driver says."""
        self._kubectl.logs(_object_name(name), follow=follow, write=click.echo)

    def stop(self, name: str, *, wait: bool) -> None:
        """Stops a job and deletes its objects; its folder stays."""
        patience_s = grace_s(current_profile()) if wait else 0
        self._kubectl.stop(_object_name(name), patience_s, click.echo)


def _object_name(name: str) -> str:
    from cluster.kuberay.naming import LONGEST_RUN, dns_name

    if not name:
        raise UserError("which job?", "name it, as in its spec")
    return dns_name(name, LONGEST_RUN)

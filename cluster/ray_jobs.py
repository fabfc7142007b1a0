"""Jobs on a running Ray cluster, through its Jobs API."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import ClusterError, ExitCode, UserError
from jobs.plan.fit import Node

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_POLL_S = 0.5
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)  # fmt: skip
_DIGEST, _RUN_NAME = "raysmith_digest", "job_name"
_FINAL = ("STOPPED", "SUCCEEDED", "FAILED")

_RUNS_IN = re.compile(r"^(?:.*\s)?run \S+/\S+ in (?P<folder>/.+)$", re.MULTILINE)
"""What the driver prints once it has begun."""

_RAYS_OWN = re.compile(r"\S+ \S+\tINFO job_manager\.py:|Running entrypoint for job ")
"""The lines that Ray puts before what the driver prints."""

# The Python that the cluster's Ray runs in: the job is started by a process of the raylet's.
_PYTHON = (
    r"""raylet=$(sed "s/.*) . \([0-9]*\).*/\1/" "/proc/$PPID/stat"); """
    r"""python=$(tr "\0" "\n" < "/proc/$raylet/cmdline" """
    r"""| sed -n "s/^--python_worker_command=\([^ ]*\) .*/\1/p"); """
)


@dataclass(frozen=True)
class Job:
    """How a submitted job stands."""

    id: str
    """Its submission id."""
    name: str
    """The name of what it runs."""
    digest: str
    """Equal for jobs that would do the same."""
    state: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    exit_code: int | None
    started_s: float | None
    """Seconds since 1970."""
    ended_s: float | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in _FINAL

    @property
    def own_exit_code(self) -> int:
        """The exit code of a command that waited for it to end: the driver's own."""
        if self.state == "SUCCEEDED":
            return ExitCode.OK
        if self.state == "STOPPED":
            return ExitCode.INTERRUPTED
        return self.exit_code if self.exit_code and self.exit_code > 0 else ExitCode.FAILED


def entrypoint(module: str, *arguments: str) -> str:
    """The shell command that runs a module of ours in the cluster's own Python.

    Arguments must need no quoting.
    """
    return f'{_PYTHON}exec "${{python:-python}}" -m {" ".join((module, *arguments))}'


class RayJobs:
    """The Jobs API at an address.

    Every method raises ClusterError if the cluster can't be reached or refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = _connected(address)

    def submit(
        self,
        job_id: str,
        command: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Submits a job, unless there is one of this id already.

        Raises:
            UserError: if the working directory is too large to travel.
        """
        # Ray answers a reused id with an error of its own, and a lost answer would submit twice.
        if self.find(job_id):
            return
        try:
            with self._told():
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=job_id,
                    runtime_env=dict(runtime_env),
                    metadata=dict(metadata or {}),
                )
        except ClusterError as error:
            if "413" in error.message or "Maximum request body" in error.message:
                raise UserError(
                    f"the files of {runtime_env.get('working_dir')} are too many to travel: Ray "
                    "takes 100 MiB",
                    "name what the job does not need in a .rayignore there, or name a smaller "
                    "folder with --working-dir; large data belongs in storage that nodes share",
                ) from error
            if not self.find(job_id):
                raise

    def find(self, job_id: str) -> Job | None:
        """The job of a submission id."""
        with self._told():
            try:
                return _job(self._client.get_job_info(job_id))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def all(self) -> list[Job]:
        """The jobs that run specs, the newest first."""
        with self._told():
            found = [_job(details) for details in self._client.list_jobs()]
        ours = [job for job in found if job and job.digest]
        return sorted(ours, key=lambda job: job.started_s or float("inf"), reverse=True)

    def named(self, text: str) -> Job:
        """The job that a text means: an id, a name, or the newest where it is empty.

        Raises:
            UserError: if there is none.
        """
        jobs = self.all()
        for job in jobs:
            if text in ("", job.id, job.name):
                return job
        known = ", ".join(job.id for job in jobs[:5])
        raise UserError(
            f"there is no job {text!r} at {self.address}".replace(" ''", ""),
            f"choose one of: {known}" if known else f"submit one: --address {self.address}",
        )

    def log(self, job_id: str) -> str:
        """What the driver has printed so far."""
        with self._told():
            lines = str(self._client.get_job_logs(job_id)).splitlines()
        return "\n".join(line for line in lines if not _RAYS_OWN.match(line))

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that the cluster has now."""
        with self._told():
            answer = self._client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000")
            answer.raise_for_status()
        entries = answer.json()["data"]["result"]["result"]
        return tuple(
            Node(
                entry["node_ip"],
                entry["resources_total"].get("CPU", 0.0),
                entry["resources_total"].get("GPU", 0.0),
                entry["resources_total"].get("memory", math.inf),
            )
            for entry in entries
            if entry["state"] == "ALIVE"
        )

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Passes on the lines that the driver prints until the job ends; returns how it ended."""
        begun = ""

        async def tail() -> None:
            nonlocal begun
            async for text in self._client.tail_job_logs(job_id):
                *lines, begun = (begun + text).split("\n")
                for line in lines:
                    if not _RAYS_OWN.match(line):
                        write(line)

        while True:
            with self._told():
                asyncio.run(tail())
            job = self._job(job_id)
            if job.is_final:
                if begun:
                    write(begun)
                return job
            time.sleep(_POLL_S)

    def _job(self, job_id: str) -> Job:
        job = self.find(job_id)
        if job is None:
            raise ClusterError(
                f"the cluster at {self.address} does not know {job_id} any more",
                "it was restarted, or the job deleted; the run's folder has its record",
            )
        return job

    def begun(self, job_id: str, timeout_s: float) -> tuple[Job, str | None]:
        """Waits until the driver has said where the run lies, has ended, or the time is over.

        Returns:
            How the job stands, and the run's folder if the driver has said it.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            job = self._job(job_id)
            found = run_folder(self.log(job_id)) if job.state != "PENDING" else None
            if found or job.is_final or time.monotonic() > deadline:
                return job, found
            time.sleep(_POLL_S)

    def stop(self, job_id: str) -> None:
        """Asks a job to stop, and returns at once. A job that has ended stays as it is."""
        with self._told():
            self._client.stop_job(job_id)

    def ended(self, job_id: str, tell: Callable[[float], None]) -> Job:
        """Waits until a job has ended. `tell` gets the seconds waited so far, now and then."""
        started = time.monotonic()
        while not (job := self._job(job_id)).is_final:
            tell(time.monotonic() - started)
            time.sleep(_POLL_S)
        return job

    @contextmanager
    def _told(self) -> Iterator[None]:
        with _errors(self.address):
            yield


def metadata(name: str, digest: str) -> dict[str, str]:
    """What tells a job that runs a spec from others: the run's name, and what it does."""
    return {_RUN_NAME: name, _DIGEST: digest}


def run_folder(log: str) -> str | None:
    """The run's folder, as a driver's output tells it."""
    found = _RUNS_IN.search(log)
    return found["folder"].strip() if found else None


def _job(details: JobDetails) -> Job | None:
    if not details.submission_id:
        return None  # a driver that was not submitted
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        name=metadata.get(_RUN_NAME, ""),
        digest=metadata.get(_DIGEST, ""),
        state=details.status.value,
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_s=details.start_time / 1000 if details.start_time else None,
        ended_s=details.end_time / 1000 if details.end_time else None,
    )


def _connected(address: str) -> JobSubmissionClient:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise UserError(
            f"Ray is needed to reach a cluster, and is not installed: {error}",
            "pip install 'raysmith[train]'",
        ) from error
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ray prefers these to the address that it is given.
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(variable, None)
    with _errors(address):
        return JobSubmissionClient(address, headers=_headers(address))


def _headers(address: str) -> dict[str, str]:
    """What shows who we are: the token, if the cluster asks for one and there is one."""
    import requests

    answer = requests.get(f"{address}/api/version", timeout=30)
    if answer.status_code != requests.codes.unauthorized or not (token := _token()):
        return {}
    return {"Authorization": f"Bearer {token}"}


def _token() -> str | None:
    """Ray's token, looked for where Ray looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Turns what the client raises into our errors. None of them shows the token."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(_refusal(address), _REMEDY) from error
    except (requests.RequestException, ConnectionError, aiohttp.ClientError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {type(error).__name__}",
            "check the address (the dashboard's, often port 8265), that the cluster runs, and "
            "that this machine reaches it: kubectl port-forward, ssh -L",
        ) from error
    except RuntimeError as error:
        raise ClusterError(
            f"the cluster at {address} says: {error}", "see its dashboard"
        ) from error


_REMEDY = (
    "export RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH with the file that holds it; it is the token "
    "that the cluster was started with"
)


def _refusal(address: str) -> str:
    if not _token():
        return f"the cluster at {address} asks for a token, and there is none here"
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        source = "RAY_AUTH_TOKEN"
    else:
        source = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    return f"the cluster at {address} refuses the token of {source}"

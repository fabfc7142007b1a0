"""`raysmith doctor`: asks a cluster how it is, from here or by a job that asks from within."""

from __future__ import annotations

import json
import secrets
import shlex
from dataclasses import asdict

import click

from cluster.attached import AttachedCluster
from cluster.local import LocalCluster
from cluster.ray_jobs import RayJobs, entrypoint
from cluster.runtime_env import submitted_env
from jobs.errors import ExitCode
from storage.uri import parse_uri
from workloads.doctor.examination import examine
from workloads.doctor.findings import Finding, Level

_MARKS: dict[Level, str] = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}
_STOP_GRACE_S = 5


def diagnose(address: str | None, storage: str, *, as_json: bool) -> ExitCode:
    """Examines a cluster that this process connects to; without address, one of its own.

    Raises:
        ClusterError: if it can't be reached.
    """
    cluster = AttachedCluster(address, ship_code=True) if address else LocalCluster(1, None)
    failed = False
    with cluster:
        cluster.connect()
        for finding in examine(_root(storage)):
            failed |= finding.level == "failed"
            click.echo(json.dumps(asdict(finding)) if as_json else _line(finding))
    return ExitCode.CLUSTER if failed else ExitCode.OK


def send(url: str, storage: str, *, as_json: bool) -> int:
    """Examines the cluster whose Jobs API is at `url`, by a job there. Returns the exit code.

    Raises:
        ClusterError: if it can't be reached.
    """
    jobs, job_id = RayJobs(url), f"doctor-{secrets.token_hex(4)}"
    arguments = ["doctor", "--here", "--storage", shlex.quote(_root(storage))]
    command = entrypoint("jobs.cli", *arguments, *(["--json"] * as_json))
    jobs.submit(job_id, command, submitted_env(None, (), None, _STOP_GRACE_S, {}))
    return jobs.follow(job_id, click.echo).own_exit_code


def _root(storage: str) -> str:
    """The storage root as any process can read it, wherever it works."""
    uri = parse_uri(storage)
    return str(uri.local_path or uri)


def _line(finding: Finding) -> str:
    text = f"{_MARKS[finding.level]}  {finding.what}: {finding.message}"
    return f"{text}\n           fix: {finding.remedy}" if finding.remedy else text

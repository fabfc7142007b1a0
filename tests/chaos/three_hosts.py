"""Three hosts on one machine, one of which is cut off while it trains. Needs root and iproute2.

    python -m tests.chaos.three_hosts [--cut 60] [--model FOLDER]

Each host is a network namespace with an address of its own on a bridge. Ray is started on each, a
job trains with three workers on them, and a host that has one of the workers, and not the driver,
loses its link for a while. Once healed, Ray is started there again, as a supervisor would do. What
is left holds the three workers. Prints what happened when; exits with 1 unless the job ends well.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import guardian

CPUS = (2, 2, 2)
"""Of each host. Without one, three workers still fit."""
STEPS = 120
_PORT = 6379
_LOSSES = ("nodes_lost", "retry")
_TOLD = ("nodes_lost", "workers_ended", "retry", "waiting", "placed", "resumed")
_RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]


def why_not() -> str | None:
    """Why hosts can't be made here; None where they can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip`: install iproute2"
    probe = f"rs{secrets.token_hex(3)}"
    try:
        for command in (
            ("netns", "add", probe),
            ("link", "add", probe, "type", "bridge"),
            ("link", "add", f"{probe}v", "type", "veth", "peer", "name", "eth0", "netns", probe),
        ):
            _ip(*command)
    except subprocess.CalledProcessError as error:
        return f"network namespaces can't be connected: {error.stderr.strip()}"
    finally:
        _ip("netns", "del", probe, check=False)
        _ip("link", "del", probe, check=False)
    return None


@dataclass
class Hosts:
    """Three hosts, numbered from 1, with a Ray over them."""

    name: str
    """Begins the names of all that is made."""
    environment: dict[str, str]
    ray_folder: Path

    @property
    def address(self) -> str:
        """Ray's address, which the hosts reach."""
        return f"{address(1)}:{_PORT}"

    def make(self) -> None:
        """Makes the bridge, the hosts and their links."""
        _ip("link", "add", self.name, "type", "bridge")
        _ip("link", "set", self.name, "up")
        for host in range(1, len(CPUS) + 1):
            space, link = self._space(host), self._link(host)
            _ip("netns", "add", space)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", link, "master", self.name)
            _ip("link", "set", link, "up")
            inside = ["netns", "exec", space, "ip"]
            _ip(*inside, "addr", "add", f"{address(host)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip(*inside, "link", "set", device, "up")

    def remove(self) -> None:
        """Ends every process on the hosts, and the hosts."""
        guardian.end(self.ray_folder)
        for host in range(1, len(CPUS) + 1):
            _ip("netns", "del", self._space(host), check=False)
        _ip("link", "del", self.name, check=False)

    def start_ray(self, host: int) -> None:
        """Starts Ray on a host, or again after it has ended there."""
        where = ["--head", f"--port={_PORT}", "--dashboard-host=127.0.0.1"]
        where += [f"--temp-dir={self.ray_folder}"]
        if host != 1:
            where = [f"--address={self.address}"]
        command = [
            *_RAY, *where, f"--node-ip-address={address(host)}", f"--num-cpus={CPUS[host - 1]}",
            "--object-store-memory=150000000",
        ]  # fmt: skip
        done = subprocess.run(
            self.on(host, command),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Ray does not start on host {host}: {done.stdout}{done.stderr}")

    def on(self, host: int, command: Sequence[str]) -> list[str]:
        """A command as it runs on a host."""
        return ["ip", "netns", "exec", self._space(host), *command]

    def trains(self, host: int) -> bool:
        """Whether a host has a train worker."""
        done = subprocess.run(
            ["ip", "netns", "pids", self._space(host)], capture_output=True, text=True, check=True
        )
        files = [Path("/proc", pid, "cmdline") for pid in done.stdout.split()]
        return any(b"RayTrainWorker" in file.read_bytes() for file in files if file.exists())

    def link(self, host: int, state: str) -> None:
        """Takes a host's link `down`, or `up` again."""
        _ip("link", "set", self._link(host), state)

    def _space(self, host: int) -> str:
        return f"{self.name}h{host}"

    def _link(self, host: int) -> str:
        return f"{self.name}v{host}"


@contextmanager
def three_hosts(**variables: str) -> Iterator[Hosts]:
    """Three hosts with Ray on each, for a `with` block. `variables` are settings of Ray's."""
    folder = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "HF_HUB_OFFLINE": "1",
        guardian.MARK: str(folder),
        **variables,
    }
    hosts = Hosts(f"rs{secrets.token_hex(2)}", environment, folder)
    try:
        hosts.make()
        for host in range(1, len(CPUS) + 1):
            hosts.start_ray(host)
        yield hosts
    finally:
        hosts.remove()


@dataclass
class Story:
    """What happened to a run, in seconds since its host was cut off."""

    code: int
    output: str
    events: list[dict[str, Any]]
    victim: str
    """The address of the host that was cut off."""
    times: dict[str, float] = field(default_factory=dict)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The run's events of a kind."""
        return [event for event in self.events if event["event"] == kind]


def train_and_cut(hosts: Hosts, model: str, folder: Path, cut_s: float) -> Story:
    """Trains over the hosts, cuts one off after some steps, and heals it."""
    job = folder / "job.yaml"
    rows = [{"query": f"{i} plus {i}?", "response": f"It is {2 * i}."} for i in range(60)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job.write_text(f"""
version: 1
name: hosts
stages:
  sft:
    kind: sft
    model: {model}
    dataset: {{train: [./rows.jsonl]}}
    training: {{max_steps: {STEPS}, global_batch_size: 12, logging_steps: 1, torch_dtype: float32}}
    checkpoint: {{save_steps: 10}}
    resources: {{workers: 3, cpus_per_worker: 1}}
""")
    storage = folder / "runs"
    command = [sys.executable, "-m", "jobs.cli", "run", str(job), "--address", hosts.address]
    run = subprocess.Popen(
        hosts.on(1, [*command, "--storage", str(storage), "--ship-code"]),
        env=hosts.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )
    try:
        return _cut(hosts, run, storage, cut_s)
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()


def _cut(hosts: Hosts, run: subprocess.Popen[str], storage: Path, cut_s: float) -> Story:
    while _step(storage) < STEPS // 6:
        if run.poll() is not None:
            raise RuntimeError(f"the run ended before it was disturbed: {run.communicate()[0]}")
        time.sleep(0.2)
    victim = next(host for host in (2, 3) if hosts.trains(host))
    hosts.link(victim, "down")
    watch, healed, restarted = _Watch(storage), time.monotonic() + cut_s, False
    while run.poll() is None:
        watch.look()
        if time.monotonic() >= healed and "healed" not in watch.times:
            hosts.link(victim, "up")
            watch.note("healed")
        if {"healed", "noticed"} <= watch.times.keys() and not restarted:
            hosts.start_ray(victim)
            restarted = True
        time.sleep(0.2)
    watch.note("ended")
    output, _ = run.communicate()
    return Story(run.returncode, output, _events(storage), address(victim), watch.times)


class _Watch:
    """Writes down when a loss was noticed, and when the first new step was made after it."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._began = time.monotonic()
        self._stood = 0
        self.times: dict[str, float] = {}

    def note(self, what: str) -> None:
        """Writes down that something happened."""
        self.times.setdefault(what, time.monotonic() - self._began)

    def look(self) -> None:
        """Sees what has happened."""
        lost = [event for event in _events(self._storage) if event["event"] in _LOSSES]
        if lost and "noticed" not in self.times:
            self.note("noticed")
            self._stood = _step(self._storage)
        elif "noticed" in self.times and _step(self._storage) > self._stood:
            self.note("next step")


def _events(storage: Path) -> list[dict[str, Any]]:
    lines = [
        line for log in storage.glob("*/*/events.jsonl") for line in log.read_text().splitlines()
    ]
    return [json.loads(line) for line in lines if line.endswith("}")]


def _step(storage: Path) -> int:
    """The newest step that the newest attempt has recorded."""
    logs = sorted(storage.glob("*/*/stages/*/attempt_*/logging.jsonl"))
    lines = [line for line in logs[-1].read_text().splitlines() if line[-1:] == "}"] if logs else []
    return max((json.loads(line).get("global_step", 0) for line in lines), default=0)


def address(host: int) -> str:
    """The address of a host."""
    return f"10.77.0.{host}"


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def main() -> int:
    """Runs the experiment as the command line says; returns the exit code."""
    from tests.conftest import make_tokenizer, write_llama

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cut", type=float, default=60.0, help="seconds without link")
    parser.add_argument("--model", help="a folder or bundled model; a tiny one by default")
    arguments = parser.parse_args()
    if reason := why_not():
        print(f"not here: {reason}")
        return 1
    with tempfile.TemporaryDirectory(prefix="rs-job-") as scratch, three_hosts() as hosts:
        folder = Path(scratch)
        if not arguments.model:
            write_llama(folder / "model", make_tokenizer())
        story = train_and_cut(
            hosts, arguments.model or str(folder / "model"), folder, arguments.cut
        )
    print(story.output)
    print(f"{story.victim} was cut off")
    for what, seconds in sorted(story.times.items(), key=lambda item: item[1]):
        print(f"{seconds:7.1f} s after the cut: {what}")
    for event in story.events:
        if event["event"] in (
            "nodes_lost",
            "workers_ended",
            "retry",
            "waiting",
            "placed",
            "resumed",
        ):
            print(json.dumps(event))
    print("ended well" if story.code == 0 else f"ended with {story.code}")
    return min(story.code, 1)


if __name__ == "__main__":
    sys.exit(main())

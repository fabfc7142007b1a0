"""A cluster of several nodes on this machine, and runs of `raysmith` on it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.layout import Layout, RunLayout


class Run:
    """`raysmith run` of a job on a running cluster, in a process of its own."""

    def __init__(self, job: Path, storage: Path, address: str) -> None:
        self.storage, self.output = storage, ""
        command = [sys.executable, "-m", "jobs.cli", "run", str(job), "--storage", str(storage)]
        self.process = subprocess.Popen(
            [*command, "--address", address, "--ship-code"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def layout(self) -> RunLayout | None:
        """The run's folder, once there is one."""
        found = [path.parent for path in self.storage.glob("*/*/status.json")]
        return Layout(self.storage).run(found[0].parent.name, found[0].name) if found else None

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The run's events of a kind."""
        if not self.layout or not self.layout.events.exists():
            return []
        # The last line may be half written.
        lines = [line for line in self.layout.events.read_text().splitlines() if line.endswith("}")]
        return [event for line in lines if (event := json.loads(line))["event"] == kind]

    def steps(self) -> int:
        """The newest step that any attempt has recorded."""
        logs = self.storage.glob("*/*/stages/*/attempt_*/logging.jsonl")
        lines = [line for log in logs for line in log.read_text().splitlines() if line[-1:] == "}"]
        return max((json.loads(line).get("global_step", 0) for line in lines), default=0)

    def losses(self) -> dict[int, float]:
        """The loss of each step, of the newest attempt."""
        (*_, log) = sorted(self.storage.glob("*/*/stages/*/attempt_*/logging.jsonl"))
        records = [json.loads(line) for line in log.read_text().splitlines()]
        return {r["global_step"]: r["loss"] for r in records if "loss" in r}

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 300) -> None:
        """Waits until a condition holds, while the run goes on."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"the run ended too early\n{self.finish(None)}"
            assert time.monotonic() < deadline, "the run takes too long"
            time.sleep(0.05)

    def finish(self, code: int | None = 0) -> str:
        """Waits for the end; returns what was printed."""
        output, _ = self.process.communicate(timeout=360)
        assert code is None or self.process.returncode == code, output
        return output

    def kill(self) -> None:
        """Ends the run if it still goes on."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

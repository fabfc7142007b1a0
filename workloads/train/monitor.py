"""What a training stage tells of itself: records, curves, progress. Only the first worker does."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from jobs.observed import Progress, timestamp, utc_now, write_progress
from storage.layout import AttemptLayout

_PROGRESS_EVERY_S = 0.5


@dataclass
class Window:
    """Sums over the steps since the last record."""

    loss: float = 0.0
    learned: int = 0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, loss: float, correct: int, learned: int, tokens: int) -> None:
        """Adds the sums of one step."""
        self.loss += loss
        self.correct += correct
        self.learned += learned
        self.tokens += tokens


@dataclass
class Monitor:
    """Writes `logging.jsonl`, TensorBoard events and `progress.json` of one attempt."""

    layout: AttemptLayout
    max_steps: int
    steps_per_epoch: int
    first_step: int = 0
    elapsed_before_s: float = 0.0
    """Seconds that earlier attempts trained for, up to the checkpoint."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """All records of the run so far, those of earlier attempts included."""

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._reported = 0.0
        self._board = SummaryWriter(str(self.layout.tensorboard), flush_secs=10)
        self._log = self.layout.logging_jsonl.open("w")
        for record in self.history:
            self._write(record)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all attempts."""
        return self.elapsed_before_s + time.monotonic() - self._started

    def record(self, step: int, window: Window, rate: float, grad_norm: float) -> None:
        """Adds a record of supervised training after `step` steps."""
        self.log(
            step,
            {
                "loss": window.loss / max(window.learned, 1),
                "grad_norm": grad_norm,
                "learning_rate": rate,
                "token_acc": window.correct / max(window.learned, 1),
                "tokens_per_second": round(window.tokens / window.seconds, 2),
            },
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a record of training after `step` steps."""
        self._add(
            {
                **values,
                "epoch": round(step / self.steps_per_epoch, 4),
                "global_step": step,
                "max_steps": self.max_steps,
                "elapsed_time": round(self.elapsed_s, 3),
                "remaining_time": round(self._remaining_s(step), 3),
                "memory_gib": round(memory_gib(), 3),
            }
        )

    def record_evaluation(self, step: int, loss: float, token_acc: float, seconds: float) -> None:
        """Adds a record of an evaluation after `step` steps."""
        record = {"eval_loss": loss, "eval_token_acc": token_acc, "eval_runtime": round(seconds, 3)}
        self._add(record | {"global_step": step, "max_steps": self.max_steps})

    def progress(self, step: int, **changes: Any) -> None:
        """Tells the controller where the work is, at most every half second."""
        if time.monotonic() - self._reported < _PROGRESS_EVERY_S and step < self.max_steps:
            return
        self._reported = time.monotonic()
        last = self.history[-1] if self.history else {}
        seen = {key: last.get(key) for key in ("loss", "reward", "tokens_per_second", "epoch")}
        remaining = self._remaining_s(step) if step > self.first_step else None
        values = {"phase": "training", "remaining_s": remaining, **seen, **changes}
        now = timestamp(utc_now())
        write_progress(
            self.layout.progress_json,
            Progress(step=step, max_steps=self.max_steps, updated_at=now, **values),
        )

    def close(self) -> None:
        """Flushes what is still held."""
        self._board.close()
        self._log.close()

    def _remaining_s(self, step: int) -> float:
        done = step - self.first_step
        if not done:
            return 0.0
        return (time.monotonic() - self._started) / done * (self.max_steps - step)

    def _add(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        self._write(record)
        print(json.dumps(record), flush=True)  # noqa: T201

    def _write(self, record: dict[str, Any]) -> None:
        self._log.write(json.dumps(record) + "\n")
        self._log.flush()
        prefix = "eval" if "eval_loss" in record else "train"
        for key, value in record.items():
            if key not in ("global_step", "max_steps"):
                tag = f"{prefix}/{key.removeprefix('eval_')}"
                self._board.add_scalar(tag, value, record["global_step"])


def memory_gib() -> float:
    """The most memory that this worker has held: the GPU's where it has one, else its own."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

"""The training loop: one for every objective, number of workers and ZeRO stage.

The loss of a step is averaged over the learned tokens of the whole global batch, on all workers and
in all micro-batches. So a step is the same however its rows are spread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from jobs.spec.checkpoint import CheckpointSpec
from jobs.spec.training import TrainingSpec
from workloads.train.batches import MicroBatch, Row, micro_batches
from workloads.train.dropout import RowKeys
from workloads.train.engine import step as engine_step
from workloads.train.monitor import Monitor, Window
from workloads.train.objectives import Objective, ObjectiveFunction
from workloads.train.schedule import learning_rate

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class Totals(NamedTuple):
    """Sums over all workers and micro-batches of a step."""

    learned: int
    """Tokens that count in the loss."""
    tokens: int
    """Tokens without padding."""
    stop: bool
    """Whether the run was asked to stop."""


@dataclass(frozen=True)
class Trainer:
    """What the loop works with. The callables are collective: all workers call them alike."""

    engine: DeepSpeedEngine
    objective: ObjectiveFunction
    training: TrainingSpec
    checkpoint: CheckpointSpec
    row_keys: RowKeys
    pad_id: int
    max_steps: int
    monitor: Monitor | None
    """None but on the first worker."""
    stop_request: Path
    save: Callable[[int], None]
    validation: Callable[[], Iterable[Sequence[Row]]] | None

    def train(self, batches: Iterator[Sequence[Row]], first_step: int) -> bool:
        """Trains from `first_step` on; `batches` has this worker's rows of each step.

        Returns whether it came to the end, rather than being asked to stop. Either way the last
        step is saved.
        """
        window, saved = Window(), first_step
        for done in range(first_step, self.max_steps):
            started = time.perf_counter()
            rows = next(batches)
            passes = micro_batches(rows, self.training.per_device_train_batch_size, self.pad_id)
            totals = self._totals(passes)
            if totals.stop:
                if saved < done:
                    self.save(done)
                return False
            rate = learning_rate(self.training, done, self.max_steps)
            grad_norm = self._step(passes, totals, rate, window)
            window.seconds += time.perf_counter() - started
            window = self._report(done + 1, window, rate, grad_norm)
            if self.validation and self._due(done + 1, self.training.eval_steps):
                self._evaluate(self.validation(), done + 1)
            if self._due(done + 1, self.checkpoint.save_steps):
                self.save(done + 1)
                saved = done + 1
        return True

    def _totals(self, passes: Sequence[MicroBatch]) -> Totals:
        """What all workers must know before a step, in one exchange."""
        stop = self.monitor is not None and self.stop_request.exists()
        mine = (sum(b.learned_tokens for b in passes), sum(b.tokens for b in passes), stop)
        learned, tokens, stops = self._sum(*mine)
        return Totals(int(learned), int(tokens), stops > 0)

    def _step(
        self, passes: Sequence[MicroBatch], totals: Totals, rate: float, window: Window
    ) -> float:
        self.engine.train()
        # DeepSpeed averages the gradients over the workers; the loss is a sum over them.
        scale = torch.distributed.get_world_size() / max(totals.learned, 1)
        loss = correct = torch.zeros((), device=self.engine.device)
        grad_norm = 0.0
        for batch in passes:
            result = self._run(batch)
            self.engine.backward(result.loss * scale, scale_wrt_gas=False)
            grad_norm = engine_step(self.engine, self.training, rate) or 0.0
            loss, correct = loss + result.loss.detach(), correct + result.correct
        loss_sum, correct_sum = self._sum(loss, correct)
        window.add(loss_sum, int(correct_sum), totals.learned, totals.tokens)
        return grad_norm

    def _run(self, batch: MicroBatch) -> Objective:
        self.row_keys.positions = batch.positions
        return self.objective(self.engine, batch.to(self.engine.device))

    def _evaluate(self, validation: Iterable[Sequence[Row]], step: int) -> None:
        started = time.perf_counter()
        size = self.training.per_device_eval_batch_size or self.training.per_device_train_batch_size
        sums = torch.zeros(3, dtype=torch.float64)
        self.engine.eval()
        with torch.no_grad():
            for rows in validation:
                for batch in micro_batches(rows, size, self.pad_id):
                    result = self._run(batch)
                    mine = [float(result.loss), float(result.correct), float(batch.learned_tokens)]
                    sums += torch.tensor(mine, dtype=torch.float64)
        loss, correct, learned = self._sum(*sums.tolist())
        if self.monitor:
            seconds = time.perf_counter() - started
            learned = max(learned, 1)
            self.monitor.record_evaluation(step, loss / learned, correct / learned, seconds)

    def _report(self, step: int, window: Window, rate: float, grad_norm: float) -> Window:
        if not self._due(step, self.training.logging_steps):
            return window
        if self.monitor:
            self.monitor.record(step, window, rate, grad_norm)
            self.monitor.progress(step)
        return Window()

    def _due(self, step: int, every: int | None) -> bool:
        return step == self.max_steps or bool(every and step % every == 0)

    def _sum(self, *values: float | Tensor) -> list[float]:
        """Each value summed over all workers."""
        mine = [float(value) for value in values]
        total = torch.tensor(mine, dtype=torch.float64, device=self.engine.device)
        torch.distributed.all_reduce(total)
        return total.tolist()

"""The training loop of GRPO: weights to the engines, a batch from them, steps on it.

The loss of a step is a mean over its whole global batch, on all workers and in all micro-batches;
so a step is the same however its rows are spread.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jobs.spec.grpo import GrpoSpec
from workloads.grpo.carriers import shared
from workloads.grpo.forward import Costs, MicroBatch, micro_batches, token_logps
from workloads.grpo.loss import PolicyBatch, PolicyLoss, Totals, entropy_threshold, policy_loss
from workloads.grpo.reference import Reference
from workloads.grpo.samples import TrainRow, Wanted
from workloads.grpo.weight_sync import WeightSync
from workloads.train.engine import step as engine_step
from workloads.train.schedule import learning_rate
from workloads.train.setup import Ready, TrainTask

_PREVIEW_EVERY = 10


@dataclass(frozen=True)
class Known:
    """What is computed of each row before a batch is trained on. (T,) float32 each."""

    old_logp: list[Tensor] | None
    """None where a batch is one step: the step's own then serve."""
    ref_logp: list[Tensor] | None
    entropy: list[Tensor] | None


@dataclass
class Learner:
    """What the loop works with. Its methods are collective: all workers call them alike."""

    task: TrainTask
    spec: GrpoSpec
    ready: Ready
    coordinator: Any
    rank: int
    workers: int
    sync: WeightSync
    reference: Reference | None
    costs: Costs | None
    """Of the model's passes; None where completions may not share prompts."""
    save: Callable[[int, str], None]
    """Saves a checkpoint of a step, with the ledger."""
    _window: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _ledger: str = ""
    _saved: int = -1
    """The step of the last checkpoint."""

    def train(self) -> bool:
        """Trains from the task's first step on.

        Returns whether it came to the end, rather than being asked to stop. Either way the last
        step is saved.
        """
        per_batch = self.spec.algorithm.steps_per_batch
        done, index = self.task.first_step, self.task.first_step // per_batch
        while done < self.task.max_steps:
            if not (self._give_weights(index) and self._await(index, done)):
                if done > self.task.first_step and done != self._saved:
                    self.save(done, self._ledger)
                return False
            before, done = done, self._train_on(index, done)
            self._ledger = self._ask("trained", index) if self.rank == 0 else ""
            every = self.spec.checkpoint.save_steps
            if done // every > before // every or done == self.task.max_steps:
                self.save(done, self._ledger)
                self._saved = done
            index += 1
        return True

    def _give_weights(self, version: int) -> bool:
        """Brings the engines up to date. Returns false where the stage was asked to stop."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for an engine on the same GPU
        started = time.time()
        seconds = self.sync.update(version)
        if seconds:
            stop = time.time()
            self._span("sync", version, max(started, stop - seconds), stop)
            self._window["weight_sync_s"].append(seconds)
            if self.sync.differences:
                self._window["canary"].append(self.sync.differences[-1])
        return seconds is not None

    def _await(self, index: int, done: int) -> bool:
        """Waits for a batch; engines that were replaced meanwhile are given weights.

        Returns false where the stage was asked to stop.
        """
        started = time.monotonic()
        while True:
            wanted: Wanted = shared(self._next(index) if self.rank == 0 else None)
            if wanted.what == "stop":
                return False
            if wanted.what == "train":
                break
            if wanted.what == "sync":
                if not self._give_weights(index):
                    return False
            elif self.ready.monitor:
                phase = f"completions {wanted.done}/{wanted.total}"
                self.ready.monitor.progress(done, phase=phase)
        self._window["wait_s"].append(time.monotonic() - started)
        if self.rank == 0 and self.spec.rollout.colocate:
            self._ask("sleep")
        return True

    def _next(self, index: int) -> Wanted:
        if self.task.layout.stop_request.exists():
            return Wanted("stop")
        wanted: Wanted = self._ask("next", index)
        return wanted

    def _train_on(self, index: int, done: int) -> int:
        """All steps of a batch. Returns the number of steps then done."""
        started = time.time()
        rows: list[TrainRow] = self._ask("rows", index, self.rank, self.workers)
        metrics, preview = self._ask("about", index) if self.rank == 0 else ({}, [])
        known = self._known(rows)
        size = self.task.global_batch // self.workers
        for _ in range(self.spec.algorithm.num_iterations):
            for start in range(0, len(rows), size):
                if done == self.task.max_steps:
                    break
                part = slice(start, start + size)
                self._step(rows[part], _part(known, part), done)
                done += 1
                self._report(done, metrics, preview)
        self._span("training", index, started, time.time())
        return done

    def _known(self, rows: Sequence[TrainRow]) -> Known:
        """Passes without gradient over a whole batch, for what its steps compare with."""
        algorithm = self.spec.algorithm
        old = ref = entropy = None
        if algorithm.steps_per_batch > 1 or algorithm.top_entropy_quantile < 1:
            old, entropy = self._pass(rows)
        if self.reference is not None:
            with self.reference.active():
                ref, _ = self._pass(rows)
        return Known(old, ref, entropy)

    @torch.no_grad()
    def _pass(self, rows: Sequence[TrainRow]) -> tuple[list[Tensor], list[Tensor]]:
        """Log-probabilities and entropies of all rows, each (T,) of its own length."""
        logps: list[Tensor] = [torch.empty(0)] * len(rows)
        entropies = list(logps)
        self.ready.engine.eval()
        for batch in self._micro_batches(rows):
            logp, entropy = self._forward(batch)
            for place, index in enumerate(batch.rows):
                length = len(rows[index].token_ids)
                logps[index], entropies[index] = logp[place, :length], entropy[place, :length]
        return logps, entropies

    def _step(self, rows: Sequence[TrainRow], known: Known, done: int) -> None:
        """One optimiser step on the workers' rows of it."""
        engine, algorithm = self.ready.engine, self.spec.algorithm
        rate = learning_rate(self.spec.training, done, self.task.max_steps)
        counts = self._sum(sum(row.counts for row in rows), sum(sum(row.learned) for row in rows))
        totals = Totals(int(counts[0]), int(counts[1]), self.spec.rollout.max_completion_length)
        threshold = None
        if algorithm.top_entropy_quantile < 1:
            threshold = self._threshold(rows, known)
        engine.train()
        parts: list[PolicyLoss] = []
        entropy_sum = 0.0
        for batch in self._micro_batches(rows):
            logp, entropy = self._forward(batch)
            part = policy_loss(self._policy_batch(batch, logp, known), algorithm, totals, threshold)
            # DeepSpeed averages the gradients over the workers; the loss is a sum over them.
            engine.backward(part.loss * self.workers, scale_wrt_gas=False)
            grad_norm = engine_step(engine, self.spec.training, rate)
            parts.append(part)
            entropy_sum += float(entropy.sum())
        self._note(parts, entropy_sum, totals)
        self._window["grad_norm"].append(grad_norm or 0.0)
        self._window["learning_rate"].append(rate)
        every = algorithm.ref_model_sync_steps
        if self.reference and algorithm.sync_ref_model and (done + 1) % every == 0:
            self.reference.follow(algorithm.ref_model_mixup_alpha)

    def _micro_batches(self, rows: Sequence[TrainRow]) -> Iterator[MicroBatch]:
        size = self.spec.training.per_device_train_batch_size
        pad_id = self.ready.tokenizer.pad_token_id or 0
        for batch in micro_batches(rows, size, pad_id, self.costs):
            self.ready.row_keys.positions = batch.keys
            yield batch.to(self.ready.engine.device)

    def _forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return token_logps(self.ready.engine, batch, self.spec.rollout.temperature)

    def _policy_batch(self, batch: MicroBatch, logp: Tensor, known: Known) -> PolicyBatch:
        def padded(values: Sequence[Tensor] | None) -> Tensor | None:
            if values is None:
                return None
            chosen = [values[index] for index in batch.rows]
            whole = logp.new_zeros(logp.shape)
            for place, value in enumerate(chosen):
                whole[place, : len(value)] = value
            return whole

        old = padded(known.old_logp)
        corrects = self.spec.algorithm.rollout_importance_sampling_mode is not None
        return PolicyBatch(
            logp=logp,
            old_logp=logp.detach() if old is None else old,
            ref_logp=padded(known.ref_logp),
            sampler_logp=batch.sampler_logp if corrects else None,
            advantages=batch.advantages,
            mask=batch.mask,
            entropy=padded(known.entropy),
        )

    def _threshold(self, rows: Sequence[TrainRow], known: Known) -> Tensor:
        """The entropy from which on tokens of this step are learned, over all workers."""
        assert known.entropy is not None
        mine = torch.cat(
            [
                entropy[torch.tensor(row.learned, dtype=torch.bool)[: len(entropy)]]
                for row, entropy in zip(rows, known.entropy, strict=True)
            ]
        ).cpu()
        boxes: list[Any] = [mine] * self.workers
        if self.workers > 1:
            torch.distributed.all_gather_object(boxes, mine)
        quantile = self.spec.algorithm.top_entropy_quantile
        return entropy_threshold(torch.cat(boxes), quantile).to(self.ready.engine.device)

    def _note(self, parts: Sequence[PolicyLoss], entropy_sum: float, totals: Totals) -> None:
        names = ("loss", "kl_sum", "ratios", "clip_low", "clip_high", "correction_sum",
                 "beyond_threshold")  # fmt: skip
        mine = (sum(float(getattr(part, name).detach()) for part in parts) for name in names)
        sums = self._sum(*mine, entropy_sum)
        loss, kl, ratios, low, high, correction, beyond, entropy = sums
        tokens = max(totals.tokens, 1)
        values = {
            "loss": loss,
            "entropy": entropy / tokens,
            "clip_ratio/low_mean": low / max(ratios, 1),
            "clip_ratio/high_mean": high / max(ratios, 1),
            "clip_ratio/region_mean": (low + high) / max(ratios, 1),
        }
        if self.spec.algorithm.beta:
            values["kl"] = kl / tokens
        if self.spec.algorithm.rollout_importance_sampling_mode:
            values["sampling/importance_sampling_ratio/mean"] = correction / tokens
            values["sampling/beyond_threshold"] = beyond / tokens
        for name, value in values.items():
            self._window[name].append(value)

    def _report(self, done: int, metrics: dict[str, float], preview: list[dict[str, Any]]) -> None:
        for name, value in metrics.items():
            self._window[name].append(value)
        due = done % self.spec.training.logging_steps == 0 or done == self.task.max_steps
        if self.ready.monitor and due:
            record = {name: sum(values) / len(values) for name, values in self._window.items()}
            self.ready.monitor.log(done, record)
            self.ready.monitor.progress(done)
        if due:
            self._window.clear()
        if self.ready.monitor and (done - 1) % _PREVIEW_EVERY == 0:
            for shown in preview:
                print(f"step {done}: {shown}", flush=True)  # noqa: T201

    def _ask(self, method: str, *args: Any) -> Any:
        import ray

        return ray.get(getattr(self.coordinator, method).remote(*args))

    def _span(self, what: str, index: int, start: float, stop: float) -> None:
        if self.rank == 0:
            self.coordinator.span.remote(what, index, start, stop)

    def _sum(self, *values: float) -> list[float]:
        """Each value summed over all workers."""
        total = torch.tensor(values, dtype=torch.float64, device=self.ready.engine.device)
        torch.distributed.all_reduce(total)
        return total.tolist()


def _part(known: Known, part: slice) -> Known:
    return Known(
        None if known.old_logp is None else known.old_logp[part],
        None if known.ref_logp is None else known.ref_logp[part],
        None if known.entropy is None else known.entropy[part],
    )

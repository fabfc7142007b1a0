"""What an attempt leaves to look at: completions, failures, events, the timeline."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from jobs.masking import masked, masker
from storage.layout import AttemptLayout
from workloads.grpo.samples import Group


class Recorder:
    """Writes JSON lines into an attempt's folder, each at once."""

    def __init__(self, layout: AttemptLayout) -> None:
        self._layout = layout
        self._files: dict[Path, TextIO] = {}
        self._failures: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}
        self._reasons: dict[str, str] = {}
        self._mask = masker((), os.environ)

    def completions(self, step: int, groups: Sequence[Group]) -> None:
        """Every completion of a batch; `step` is the number of optimiser steps before it."""
        for group in groups:
            for sample in group.samples:
                failures = masked(sample.failures, self._mask)
                self._write(
                    self._layout.completions_jsonl,
                    {
                        "step": step,
                        "uid": group.uid,
                        "sample": sample.number,
                        "prompt": group.prompt.messages,
                        "completion": sample.text,
                        **({"messages": sample.messages} if len(sample.messages) > 1 else {}),
                        "solution": group.prompt.columns.get("solution"),
                        "rewards": sample.rewards,
                        "reward": sample.reward,
                        "advantage": round(sample.advantage, 6),
                        "tokens": sum(sample.learned),
                        "truncated": sample.truncated,
                        "versions": sample.versions,
                        **({"failures": failures} if failures else {}),
                    },
                )

    def failed(self, group: Group) -> None:
        """Every completion of a group that can't be learned from, and why."""
        for sample in group.samples:
            for source, told in sample.failures.items():
                reason = self._mask(told)
                self._failures[source] += 1
                named = self._first.setdefault(source, [])
                if len(named) < 10:
                    named.append(f"{group.uid}/{sample.number}")
                self._reasons.setdefault(source, reason)
                self._write(
                    self._layout.failures_jsonl,
                    {
                        "source": source,
                        "uid": group.uid,
                        "row": group.prompt.row,
                        "sample": sample.number,
                        "reason": reason,
                        "completion": sample.text,
                    },
                )

    def failures_by_source(self) -> dict[str, dict[str, Any]]:
        """How many completions failed in what, the first of them, and the first reason."""
        return {
            source: {
                "completions": count,
                "first": self._first[source],
                "reason": self._reasons[source],
            }
            for source, count in self._failures.items()
        }

    def filtered(self, group: Group, reason: str) -> None:
        """A group that was replaced by another."""
        self.event("group_filtered", uid=group.uid, reason=reason)

    def reward_seconds(self, label: str, seconds: float) -> None:
        """How long a reward took for one group."""
        self._write(
            self._layout.timeline_jsonl, {"what": f"rewards/{label}", "seconds": round(seconds, 4)}
        )

    def span(self, what: str, batch: int, start: float, stop: float) -> None:
        """A stretch of the timeline, in seconds since the epoch."""
        self._write(
            self._layout.timeline_jsonl,
            {"what": what, "batch": batch, "start": start, "stop": stop},
        )

    def event(self, kind: str, **fields: Any) -> None:
        """Something that happened to the pool."""
        told = masked(fields, self._mask)
        record = {"at": datetime.now(UTC).isoformat(), "event": kind, **told}
        self._write(self._layout.rollout_events_jsonl, record)

    def _write(self, path: Path, record: dict[str, Any]) -> None:
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = path.open("a", encoding="utf-8", buffering=1)
        file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        """Closes all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

"""What must hold of a run that was killed many times, as its store tells."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from storage.manifest import MARKER_FILE, OWNER_FILE, manifest_from_json

_CHECKPOINT = re.compile(r"stages/([\w-]+)/checkpoint-(\d+)/" + MARKER_FILE)


@dataclass(frozen=True)
class Marker:
    """A committed checkpoint or artifact."""

    key: str
    stage: str
    step: int | None
    """None for an artifact."""


@dataclass(frozen=True)
class Kill:
    """One kill, and what was there when it was done."""

    at: str
    """As records write the time."""
    committed: Mapping[str, int]
    """The newest committed step by stage."""
    attempts: Mapping[str, int]
    """The newest attempt by stage."""


class Store:
    """One bucket, read past the proxy."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def all_keys(self) -> list[str]:
        """All keys."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """The content of an object."""
        content: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return content

    def markers(self) -> list[Marker]:
        """What is committed of stages, but for their data."""
        found = []
        for key in self.all_keys():
            if match := _CHECKPOINT.search(key):
                found.append(Marker(key, match[1], int(match[2])))
            elif "/artifacts/" in key and key.endswith(f"/{MARKER_FILE}"):
                found.append(Marker(key, key.split("/")[-2], None))
        return found

    def newest_steps(self) -> dict[str, int]:
        """The newest committed step by stage."""
        newest: dict[str, int] = {}
        for marker in self.markers():
            if marker.step is not None:
                newest[marker.stage] = max(newest.get(marker.stage, 0), marker.step)
        return newest

    def attempts(self) -> dict[str, int]:
        """The newest attempt by stage; empty before there is a run."""
        for key in self.all_keys():
            if key.endswith("/status.json"):
                return {s["name"]: s["attempt"] for s in json.loads(self.read(key))["stages"]}
        return {}

    def is_newer(self, marker: Marker, kill: Kill) -> bool:
        """Whether it was committed by an attempt that began after the kill."""
        try:
            owner = manifest_from_json(self.read(marker.key)).owner
        except self._client.exceptions.NoSuchKey:
            return False  # A newer one is committed, and this one is removed.
        return owner.attempt > kill.attempts.get(owner.stage, 0)

    def events(self) -> list[dict[str, Any]]:
        """What happened to the one run."""
        (key,) = [key for key in self.all_keys() if key.endswith("/events.jsonl")]
        return [json.loads(line) for line in self.read(key).splitlines()]

    def losses(self, stage: str) -> dict[int, float]:
        """The loss of each step in the log of the stage's last attempt, which has all steps."""
        logs = [key for key in self.all_keys() if re.search(rf"/{stage}/attempt_\d+/logging", key)]
        last = max(logs, key=lambda key: int(re.findall(r"attempt_(\d+)", key)[0]))
        records = [json.loads(line) for line in self.read(last).splitlines()]
        return {r["global_step"]: r["loss"] for r in records if "loss" in r}

    def weights(self) -> dict[str, str]:
        """The digest of each file of weights by its artifact and name."""
        found = {}
        for key in self.all_keys():
            if "/artifacts/" in key and key.endswith(".safetensors"):
                found["/".join(key.split("/")[-2:])] = _sha256(self.read(key))
        return found

    def unfinished(self) -> list[str]:
        """What was claimed and never committed."""
        keys = set(self.all_keys())
        owners = [key.removesuffix(OWNER_FILE) for key in keys if key.endswith(f"/{OWNER_FILE}")]
        return [folder for folder in owners if folder + MARKER_FILE not in keys]

    def torn(self) -> Iterator[str]:
        """What is marked as committed, and is not what was committed."""
        there = set(self.all_keys())
        for key in sorted(key for key in there if key.endswith(f"/{MARKER_FILE}")):
            folder = key.removesuffix(MARKER_FILE)
            for file in manifest_from_json(self.read(key)).files:
                if folder + file.name not in there:
                    yield f"{folder}{file.name} is missing"
                elif _sha256(self.read(folder + file.name)) != file.sha256:
                    yield f"{folder}{file.name} is not what was committed"


@dataclass(frozen=True)
class Outcome:
    """What a run has come to."""

    losses: Mapping[str, Mapping[int, float]]
    weights: Mapping[str, str]

    @classmethod
    def of(cls, store: Store, stages: Sequence[str]) -> Outcome:
        """What the store has of the one run in it, whose `stages` train."""
        return cls({stage: store.losses(stage) for stage in stages}, store.weights())


def faults(store: Store, kills: Sequence[Kill], reference: Outcome) -> list[str]:
    """All that is not as it should be at a run's end."""
    found = Outcome.of(store, tuple(reference.losses))
    wrong = list(store.torn())
    for stage, expected in reference.losses.items():
        other = {
            step: (found.losses[stage].get(step), loss)
            for step, loss in expected.items()
            if found.losses[stage].get(step) != loss
        }
        if other or found.losses[stage].keys() != expected.keys():
            wrong.append(f"{stage}: {len(other)} losses are others, such as {_first(other)}")
    if other_files := dict(reference.weights.items() ^ found.weights.items()):
        wrong.append(f"the weights are others: {sorted(other_files)}")
    events = store.events()
    return wrong + list(_final_events(events)) + list(_lost_steps(events, kills))


def _final_events(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    ends = [event for event in events if event["event"] == "run_finished"]
    succeeded = [event for event in ends if event["state"] == "succeeded"]
    if len(succeeded) != 1:
        yield f"{len(succeeded)} events say that the run has succeeded"
    lives = [event for event in events if event["event"] in ("run_finished", "run_resumed")]
    for one, next_one in pairwise(lives):
        if one["event"] == next_one["event"] == "run_finished":
            yield f"two final events without a new life between: {one} {next_one}"


def _lost_steps(events: Sequence[Mapping[str, Any]], kills: Sequence[Kill]) -> Iterator[str]:
    """The first attempt at a stage after a kill goes on from what was committed at the kill."""
    for kill in kills:
        after = [event for event in events if event["time"] > kill.at]
        for stage, step in kill.committed.items():
            mine = [event for event in after if event.get("stage") == stage]
            starts = [n for n, event in enumerate(mine) if event.get("state") == "running"]
            if not starts:
                continue
            attempt = mine[starts[0] : starts[1] if len(starts) > 1 else None]
            resumed = [event["step"] for event in attempt if event["event"] == "resumed"]
            if not resumed and len(starts) == 1:
                yield f"{stage} had step {step} at {kill.at}, and began anew"
            if resumed and resumed[0] < step:
                yield f"{stage} had step {step} at {kill.at}, and went on from {resumed[0]}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _first(found: Mapping[int, object]) -> object:
    return next(iter(found.items()), None)

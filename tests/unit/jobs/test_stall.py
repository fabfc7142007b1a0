"""What is watched of an attempt: lost nodes, and whether it gets on."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

import jobs.stall
from jobs.observed import Progress, write_progress
from jobs.plan.resolve import StagePlan
from jobs.spec.sft import SftSpec
from jobs.stall import Watch
from storage.layout import AttemptLayout, Layout
from storage.manifest import Owner
from workloads.context import Cluster, StageContext


class Scene:
    """An attempt that a test makes get on, or not, on a clock of its own."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.now = 1000.0
        self.lost: tuple[str, ...] = ()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.notes: list[str] = []
        self.killed: list[AttemptLayout] = []
        run = Layout(folder).run("bot", "1")
        layout = run.stage("sft")
        self.attempt = layout.attempt(1)
        self.attempt.folder.mkdir(parents=True)
        spec = SftSpec.model_validate(
            {"kind": "sft", "model": "m", "dataset": {"train": [{"path": "x"}]}}
        ).model_copy(update={"stall_timeout": "20m"})
        self.context = StageContext(
            stage=StagePlan("sft", spec, (), {}, "adapter"),
            seed=1,
            base_folders=(),
            owner=Owner("1", "sft", "key", 1),
            layout=layout,
            attempt=self.attempt,
            artifact=run.artifact("sft"),
            inputs={},
            cluster=cluster,
            event=lambda kind, **fields: self.events.append((kind, fields)),
            note=self.notes.append,
        )
        self._stamps = itertools.count(1)
        self.watch = Watch(lambda: self.lost, self.context, lambda: self.now)

    def wait(self, minutes: float) -> bool:
        """Lets time pass with a look every ten seconds; whether the last could do something."""
        can = True
        for _ in range(round(minutes * 6)):
            self.now += 10
            can = self.watch.look()
        return can

    @property
    def stalled(self) -> bool:
        return self.watch.stalled is not None

    def trains(self, step: int | None = None) -> None:
        self.attempt.worker_log(0).touch()
        write_progress(self.attempt.progress_json, Progress(step=step))

    def write(self, path: Path) -> None:
        """Writes a file at a time of its own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        stamp = 10**9 + next(self._stamps)
        os.utime(path, (stamp + 10**9, stamp + 10**9))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """An attempt with a stall_timeout of 20 minutes that trains, at its third step."""
    scene = Scene(tmp_path, None)  # type: ignore[arg-type]
    monkeypatch.setattr(jobs.stall, "load_function", lambda place: scene.killed.append)
    scene.trains(step=3)
    return scene


def test_what_stands_still_for_too_long_is_ended(scene: Scene) -> None:
    assert scene.wait(20)
    assert (scene.stalled, scene.events) == (False, [])
    assert scene.wait(1.5)
    assert str(scene.watch.stalled).startswith("no progress for 20m")
    assert [kind for kind, _ in scene.events] == ["stalled"]
    assert scene.attempt.end_request.exists()
    assert "its workers are ended" in scene.notes[0]


@pytest.mark.parametrize(
    "sign",
    [
        "stages/sft/attempt_1/progress.json",
        "stages/sft/attempt_1/completions.jsonl",
        "stages/sft/checkpoint-5/model.safetensors",
        "stages/sft/data/part/0.parquet",
        "stages/sft/models/base/answers/000.jsonl",
        "stages/sft/trials/trial_0001/attempt_1/progress.json",
        "artifacts/sft/model.safetensors",
    ],
)
def test_progress_of_every_kind_counts(scene: Scene, sign: str) -> None:
    for _ in range(4):
        scene.write(scene.context.layout.run.folder / sign)
        assert scene.wait(15)
    assert not scene.stalled


def test_what_is_only_logged_is_no_progress(scene: Scene) -> None:
    for _ in range(3):
        scene.write(scene.attempt.driver_log)
        scene.write(scene.attempt.worker_log(0))
        scene.wait(10)
    assert scene.stalled


def test_a_sweep_gets_on_with_its_trials_alone(scene: Scene) -> None:
    scene.write(scene.context.layout.trials_jsonl)
    for _ in range(3):
        scene.trains(step=3)
        scene.wait(10)
    assert scene.stalled


def test_the_first_step_may_take_longer(scene: Scene) -> None:
    scene.trains(step=None)
    scene.wait(39)
    assert not scene.stalled
    scene.wait(2)
    assert scene.stalled


def test_a_service_is_never_still(scene: Scene) -> None:
    scene.attempt.service_json.write_text("{}")
    scene.wait(300)
    assert not scene.stalled


def test_what_has_no_workers_to_end_is_given_up(scene: Scene) -> None:
    scene.attempt.worker_log(0).unlink()
    while not scene.stalled:
        can = scene.wait(0.2)
    assert not can
    assert scene.stalled


def test_workers_that_do_not_end_are_killed(scene: Scene) -> None:
    while not scene.stalled:
        scene.wait(0.2)
    assert not scene.killed
    assert scene.wait(0.5)
    while not scene.killed:
        os.sched_yield()
    assert scene.wait(0.5)
    assert not scene.wait(0.9)
    assert scene.killed == [scene.attempt]


def test_after_a_lost_node_patience_is_short(scene: Scene) -> None:
    scene.wait(1)
    scene.lost = ("10.0.0.2",)
    scene.wait(1.6)
    assert scene.events[0] == ("nodes_lost", {"nodes": ["10.0.0.2"]})
    assert [kind for kind, _ in scene.events] == ["nodes_lost", "workers_ended"]
    assert scene.attempt.end_request.exists()
    # It is the node that is at fault.
    assert not scene.stalled

"""Datasets that one stage makes and another takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.inputs import with_datasets
from jobs.plan.resolve import Plan, resolve, stage_key
from jobs.spec.dataset import SourceSpec
from jobs.spec.sft import SftSpec

SAMPLE = "{kind: sample, model: m, dataset: {prompts: [p.jsonl]}}"


def plan(folder: Path, train: str, more: str = "") -> Plan:
    """The plan of a job in which one stage trains on what another has sampled."""
    file = folder / "job.yaml"
    file.write_text(
        f"version: 1\nname: job\nstages:\n  sample: {SAMPLE}\n"
        f"  sft: {{kind: sft, model: m, dataset: {{train: [{train}]{more}}}}}\n"
    )
    return resolve(load(file, (), {}), "./runs")


def test_a_dataset_is_an_input_that_is_put_in_its_place(tmp_path: Path) -> None:
    train = (
        'own.jsonl, "${stages.sample.dataset}#50", '
        '{path: "${stages.sample.dataset}", columns: {a: b}}'
    )
    made = plan(tmp_path, train, ', validation: ["${stages.sample.dataset}"]')
    assert [stage.name for stage in made.stages] == ["sample", "sft"]
    stage = made.stage("sft")
    assert stage.inputs == {
        "dataset.train[1]": "sample",
        "dataset.train[2].path": "sample",
        "dataset.validation[0]": "sample",
    }
    assert Plan.from_json(made.to_json()) == made
    folder = Path("/runs/artifacts/sample")
    filled = with_datasets(stage, dict.fromkeys(stage.inputs, folder)).spec
    assert isinstance(filled, SftSpec)
    assert filled.dataset.train_sources == (
        SourceSpec(path="own.jsonl"),
        SourceSpec(path=str(folder), sample=50),
        SourceSpec(path=str(folder), columns={"a": "b"}),
    )
    assert filled.dataset.validation_sources == (SourceSpec(path=str(folder)),)


def test_the_key_counts_how_many_rows_are_taken(tmp_path: Path) -> None:
    def key(train: str) -> str:
        stage = plan(tmp_path, train).stage("sft")
        return stage_key(stage, 1, dict.fromkeys(stage.inputs, "digest"), {})

    whole, some = '"${stages.sample.dataset}"', '"${stages.sample.dataset}#50"'
    assert key(whole) == key(whole)
    assert len({key(whole), key(some), key(f"{some}, {whole}"), key(f"{whole}, {some}")}) == 4


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ('"${stages.sample.model}"', "a dataset is needed here, and no model"),
        ('"${stages.sample.rows}"', "there are model and dataset"),
        ('"${stages.smple.dataset}"', "there is no stage 'smple'"),
        ('"x/${stages.sample.dataset}"', "must be the whole value"),
    ],
)
def test_other_references_are_refused(tmp_path: Path, train: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(tmp_path, train)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.path == "stages.sft.dataset.train[0]"


def test_a_model_is_no_dataset(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "version: 1\nname: job\nstages:\n"
        "  a: {kind: sft, model: m, dataset: {train: [x.jsonl]}}\n"
        '  b: {kind: sft, model: m, dataset: {train: ["${stages.a.dataset}"]}}\n'
    )
    with pytest.raises(SpecError, match="leaves an adapter, and this takes: dataset"):
        resolve(load(file, (), {}), "./runs")

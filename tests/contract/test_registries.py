"""Every line of a registry leads to code that keeps its Protocol; every stage kind has its line."""

import inspect
import typing
from importlib import import_module

import pytest

from jobs.spec.job import Stage
from workloads import WORKLOADS, load_function
from workloads.data.formats import FORMATS, Format, load_format
from workloads.data.readers import READERS, load_reader
from workloads.data.rows import Reader
from workloads.train.objectives import OBJECTIVES


def parameters(function: object) -> list[str]:
    """The names of a function's parameters."""
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_every_stage_kind_has_a_workload() -> None:
    union = typing.get_args(Stage)[0]
    kinds = {spec.model_fields["kind"].annotation for spec in typing.get_args(union)}
    assert {typing.get_args(kind)[0] for kind in kinds} == set(WORKLOADS)


@pytest.mark.parametrize("kind", WORKLOADS)
def test_a_workload_can_be_checked_and_run(kind: str) -> None:
    assert parameters(load_function(WORKLOADS[kind].check)) == ["loaded", "stage"]
    assert parameters(load_function(WORKLOADS[kind].run)) == ["context"]
    if hold := WORKLOADS[kind].hold:
        assert parameters(load_function(hold)) == ["stage", "artifact"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_tells_and_reads_its_rows(name: str) -> None:
    found = load_format(name)
    assert isinstance(found.COLUMNS, str)
    for method in ("matches", "messages", "asks", "prompt"):
        assert parameters(getattr(found, method)) == parameters(getattr(Format, method))[1:]


@pytest.mark.parametrize("suffix", READERS)
def test_a_reader_cuts_and_reads_its_files(suffix: str) -> None:
    found = load_reader(READERS[suffix])
    for method in ("chunks", "read"):
        assert parameters(getattr(found, method)) == parameters(getattr(Reader, method))[1:]


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_objective_takes_a_model_and_a_batch(kind: str) -> None:
    module, _, name = OBJECTIVES[kind].partition(":")
    assert parameters(getattr(import_module(module), name)) == ["model", "batch"]

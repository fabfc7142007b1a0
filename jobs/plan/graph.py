"""The edges between stages: their order, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.errors import Problem
from jobs.load.loaded import LoadedSpec
from jobs.spec.fields import REFERENCE
from jobs.spec.job import JobSpec, Stage
from jobs.spec.merge import MergeSpec

Edges = Mapping[str, tuple[str, ...]]
"""The stages that each stage needs."""


def inputs(stage: Stage) -> dict[str, str]:
    """The stages whose artifacts a stage takes, by field, such as `rewards[0].model`."""
    matches = {field: REFERENCE.match(taken.value) for field, taken in stage.takes.items()}
    return {field: match["stage"] for field, match in matches.items() if match}


def edges(spec: JobSpec) -> Edges:
    """What each stage needs: first its inputs, then what it only waits for."""
    return {
        name: tuple(dict.fromkeys((*inputs(stage).values(), *stage.after)))
        for name, stage in spec.stages.items()
    }


def in_order(needs: Edges) -> tuple[str, ...]:
    """The stages, each behind those it needs, and otherwise as the spec has them.

    Raises:
        ValueError: if stages wait for one another in a circle.
    """
    order: list[str] = []
    while len(order) < len(needs):
        ready = (name for name in needs if name not in order and set(needs[name]) <= set(order))
        try:
            order.append(next(ready))
        except StopIteration:
            raise ValueError("stages wait for one another in a circle") from None
    return tuple(order)


def graph_problems(loaded: LoadedSpec) -> list[Problem]:
    """Circles, and artifacts that do not fit the stages that take them."""
    return _circle_problems(loaded) + _artifact_problems(loaded)


def _circle_problems(loaded: LoadedSpec) -> list[Problem]:
    problems = []
    seen: set[str] = set()
    needs = edges(loaded.spec)
    for name in needs:
        circle = _circle_from(name, needs)
        if circle and not seen & set(circle):
            takes = inputs(loaded.spec.stages[name]).items()
            field = next((field for field, source in takes if source == circle[1]), "after")
            problems.append(
                loaded.problem(
                    f"stages.{name}.{field}",
                    f"stages wait for one another in a circle: {' -> '.join(circle)}",
                    "take one of these edges out",
                )
            )
            seen |= set(circle)
    return problems


def _circle_from(start: str, needs: Edges) -> tuple[str, ...]:
    """A way from a stage back to itself, such as (a, b, a); empty where there is none."""
    ways: list[tuple[str, ...]] = [(start, need) for need in needs[start]]
    visited: set[str] = set()
    while ways:
        way = ways.pop(0)
        if way[-1] == start:
            return way
        if way[-1] not in visited:
            visited.add(way[-1])
            ways += [(*way, need) for need in needs[way[-1]]]
    return ()


def _artifact_problems(loaded: LoadedSpec) -> list[Problem]:
    stages = loaded.spec.stages
    problems = []
    for name, stage in stages.items():
        for field, source in inputs(stage).items():
            if stages[source].produces not in stage.takes[field].accepts:
                message, remedy = _misfit(stage, field, source, stages)
                problems.append(loaded.problem(f"stages.{name}.{field}", message, remedy))
    return problems


def _misfit(stage: Stage, field: str, source: str, stages: Mapping[str, Stage]) -> tuple[str, str]:
    accepts, left = stage.takes[field].accepts, stages[source].produces
    if isinstance(stage, MergeSpec) and left == "model":
        return (
            f"nothing to merge: the stage '{source}' leaves a full model",
            f"remove this stage, and use ${{stages.{source}.model}} where its model was used",
        )
    if left != "adapter" or "model" not in accepts:
        article = "an" if left[0] in "ae" else "a"
        return (
            f"the stage '{source}' leaves {article} {left}, and this takes: {', '.join(accepts)}",
            "name a stage that leaves one of these",
        )
    base = f"{source}-merged"
    merged = base if base not in stages else f"{base}-2"
    return (
        f"a full model is needed, and the stage '{source}' leaves an adapter",
        f"add a merge stage, and take its model:\n"
        f'    {merged}: {{kind: merge, model: "${{stages.{source}.model}}"}}\n'
        f"    {field.rpartition('.')[2]}: ${{stages.{merged}.model}}",
    )

"""Looks at the models, the rows and the gate of an evaluation."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.errors import Problem, UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.evaluation import EvaluateSpec, LmEvalSpec, field_of
from workloads.check import Findings, located
from workloads.data.check import check_dataset
from workloads.data.conversation import RowReader, with_solution
from workloads.data.rows import Message
from workloads.evaluate.metrics import SPEED, value_names
from workloads.evaluate.metrics.classification import read_label
from workloads.evaluate.metrics.exact_match import normalized
from workloads.evaluate.tasks import find_tasks
from workloads.generate.check import check_asked_model

_LISTED = 3


@dataclass
class _Rows:
    """Counts the rows that each metric can say something of."""

    labels: tuple[str, ...]
    rows: int = 0
    answered: int = 0
    solved: int = 0
    unknown: list[str] = field(default_factory=list)
    """The first labels that are none of the classes."""

    def messages(self, reader: RowReader, columns: Mapping[str, Any]) -> list[Message]:
        """The row as a prompt."""
        messages, answer = reader.prompt(columns)
        solution = with_solution(reader.renamed(columns), answer)["solution"]
        label = answer if answer is not None else solution
        self.rows += 1
        self.answered += label is not None
        self.solved += solution is not None
        is_unknown = bool(self.labels and label) and not read_label(str(label), self.labels)
        if is_unknown and len(self.unknown) < _LISTED:
            self.unknown.append(normalized(str(label))[:40])
        return messages


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """Models must be there, rows must hold what is compared, and the gate must be of metrics."""
    spec = stage.spec
    assert isinstance(spec, EvaluateSpec)
    findings, rows = Findings(), _Rows(spec.labels)
    template = spec.dataset.chat_template if spec.dataset else None
    for name, model in spec.asked.items():
        place, tokens = field_of(name, spec), spec.engine.max_model_len or 0
        check_asked_model(loaded, stage, findings, place, model, template, tokens)
    if spec.dataset:
        check_dataset(loaded, stage.name, spec.dataset, findings, rows.messages)
        findings.problems += _row_problems(loaded, stage, spec, rows)
    findings.problems += _gate_problems(loaded, stage, spec)
    if spec.lm_eval:
        _check_tasks(loaded, stage, spec.lm_eval, findings)
    return findings


def _check_tasks(
    loaded: LoadedSpec, stage: StagePlan, wanted: LmEvalSpec, findings: Findings
) -> None:
    if not find_spec("lm_eval"):
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.lm_eval",
                "the library lm-eval is not installed",
                "install the extra: pip install 'raysmith[eval]'",
            )
        )
    try:
        folders = find_tasks(wanted.tasks, loaded.base_folders).folders
    except UserError as error:
        findings.problems += located(loaded, stage, "lm_eval.tasks", error)
        return
    files = [path for folder in folders for path in sorted(Path(folder).iterdir())]
    content = [path.read_bytes() for path in files if path.suffix in (".yaml", ".yml", ".py")]
    findings.digests["lm_eval.tasks"] = hashlib.sha256(b"\0".join(content)).hexdigest()


def _row_problems(
    loaded: LoadedSpec, stage: StagePlan, spec: EvaluateSpec, rows: _Rows
) -> Iterator[Problem]:
    for index, name in enumerate(spec.metrics):
        found = rows.solved if name == "accuracy" else rows.answered
        if rows.rows and not found:
            yield loaded.problem(
                f"stages.{stage.name}.metrics[{index}]",
                f"no row holds an answer, which {name} compares with",
                "add a response or a column `solution` to the rows, or give a column that name: "
                "{path: ..., columns: {theirs: solution}}",
            )
    if rows.unknown:
        yield loaded.problem(
            f"stages.{stage.name}.labels",
            f"rows are of classes that labels don't name, such as {', '.join(rows.unknown)}",
            "name every class, or mend the rows",
        )


def _gate_problems(loaded: LoadedSpec, stage: StagePlan, spec: EvaluateSpec) -> Iterator[Problem]:
    known = gate_names(spec)
    wanted = spec.lm_eval.tasks if spec.lm_eval else ()
    try:
        tasks = tuple(f"{name}." for name in find_tasks(wanted, loaded.base_folders).names)
    except UserError:
        return  # told of the tasks already
    for name in spec.gate:
        model, _, metric = name.partition(".")
        bare = metric if model in spec.models else name
        if name in known or (tasks and bare.startswith(tasks)):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        yield loaded.problem(
            (*loaded.key_path(f"stages.{stage.name}.gate"), name),
            f"nothing measures {name!r}",
            f"{hint}measured are {', '.join([*known, *(f'{task}METRIC' for task in tasks)])}",
        )


def gate_names(spec: EvaluateSpec) -> list[str]:
    """What a gate may name, apart from the values of lm-eval's tasks."""
    values = [*value_names(spec.metrics), *SPEED] if spec.dataset else []
    named = [f"{name}.{value}" for name in spec.models for value in values]
    return [*values, *named]

"""Looks at the rewards of a stage, and at whether its rows have what they compare with."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.rewards import RewardSpec
from workloads import load_function
from workloads.check import Findings, located
from workloads.data.conversation import RowReader, with_solution
from workloads.data.rows import Message
from workloads.models.check import check_full_model
from workloads.models.resolve import ModelSource, read_json
from workloads.rewards import REWARDS, check_reward
from workloads.train.check import has_chat_template
from workloads.user_code import module_file


@dataclass
class Prompts:
    """Counts the rows that a completion can be compared with."""

    rows: int = 0
    unsolved: int = 0

    def messages(self, reader: RowReader, columns: Mapping[str, Any]) -> list[Message]:
        """The row as a prompt."""
        messages, answer = reader.prompt(columns)
        self.rows += 1
        self.unsolved += with_solution(reader.renamed(columns), answer)["solution"] is None
        return messages


def check_rewards(
    loaded: LoadedSpec, stage: StagePlan, rewards: Sequence[RewardSpec],
    max_completion_length: int, prompts: Prompts, findings: Findings,
) -> None:  # fmt: skip
    """Adds what is wrong with rewards, and digests of user code and reward models.

    `prompts` has counted the stage's rows.
    """
    for index, reward in enumerate(rewards):
        place = f"rewards[{index}]"
        _check_reward(loaded, stage, place, reward, max_completion_length, findings)
        if reward.name and _compares(reward.name):
            _check_solutions(loaded, stage, place, reward, prompts, findings)


def _check_reward(
    loaded: LoadedSpec, stage: StagePlan, place: str, reward: RewardSpec,
    max_completion_length: int, findings: Findings,
) -> None:  # fmt: skip
    field = f"{place}.{'import_path' if reward.import_path else 'params'}"
    try:
        check_reward(reward, loaded.base_folders, max_completion_length)
        if reward.import_path:
            add_digest(findings, field, reward.import_path, loaded.base_folders)
    except UserError as error:
        findings.problems += located(loaded, stage, field, error)
    if reward.model:
        field = f"{place}.model"
        source = check_full_model(loaded, stage, findings, field, reward.model)
        try:
            if source:
                _check_classifier(source, reward.model)
        except UserError as error:
            findings.problems += located(loaded, stage, field, error)


def _check_classifier(source: ModelSource, name: str) -> None:
    remedy = "give a sequence classifier that was trained with num_labels=1"
    if source.kind == "bundled":
        raise UserError(f"{name!r} writes text, and is no reward model", remedy)
    if source.kind != "folder":
        return
    config = read_json(Path(source.name, "config.json"))
    kind = str((config.get("architectures") or ["SequenceClassification"])[0])
    if not kind.endswith("SequenceClassification"):
        raise UserError(f"{name!r} is a {kind}, and no reward model", remedy)
    # What transformers would make up for a folder that says nothing of it is two outputs.
    outputs = len(config.get("id2label", ("", "")))
    if outputs != 1:
        raise UserError(f"{name!r} has {outputs} outputs, and a reward model has one", remedy)
    if not has_chat_template(Path(source.name)):
        raise UserError(
            f"the tokenizer of the reward model {name!r} has no chat template",
            "add chat_template.jinja to its folder",
        )


def _compares(reward: str) -> bool:
    """Whether a built-in reward compares completions with the rows' solutions."""
    return "solution" in inspect.signature(load_function(REWARDS[reward])).parameters


def _check_solutions(
    loaded: LoadedSpec, stage: StagePlan, place: str, reward: RewardSpec, prompts: Prompts,
    findings: Findings,
) -> None:  # fmt: skip
    if prompts.rows and prompts.unsolved == prompts.rows:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.{place}",
                f"no row has a solution, which the reward {reward.label!r} compares with",
                "add a column `solution` or a response to the rows, or give a column that name: "
                "{path: ..., columns: {theirs: solution}}",
            )
        )
    elif prompts.unsolved:
        findings.notes.append(
            f"{prompts.unsolved:,} of {prompts.rows:,} rows have no solution: the reward "
            f"{reward.label!r} says nothing of their completions"
        )


def add_digest(findings: Findings, field: str, import_path: str, paths: Sequence[str]) -> None:
    """Adds the digest of a user's module, so that another content is another artifact."""
    if file := module_file(import_path.partition(":")[0], paths):
        findings.digests[field] = hashlib.sha256(file.read_bytes()).hexdigest()

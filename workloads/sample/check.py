"""Looks at the model, the prompts and the rewards of a sample stage."""

from __future__ import annotations

from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.sample import SampleSpec
from workloads.check import Findings
from workloads.data.check import check_dataset
from workloads.generate.check import check_asked_model
from workloads.rewards.check import Prompts, check_rewards


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The model must be there, prompts usable, and every reward able to score answers."""
    spec = stage.spec
    assert isinstance(spec, SampleSpec)
    findings, prompts = Findings(), Prompts()
    template = spec.dataset.chat_template
    tokens = spec.engine.max_model_len or 0
    check_asked_model(loaded, stage, findings, "model", spec.model, template, tokens)
    check_dataset(loaded, stage.name, spec.dataset, findings, prompts.messages)
    length = spec.generation.max_new_tokens
    check_rewards(loaded, stage, spec.rewards, length, prompts, findings)
    return findings

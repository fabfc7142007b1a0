"""`kind: evaluate`: how good a model is, in numbers, and whether that is good enough.

    check:
      kind: evaluate
      model: ${stages.merge.model}
      dataset: {test: ["./gsm8k_test.jsonl"]}
      metrics: [accuracy, rouge]
      gate: {accuracy: ">= 0.6"}

A pool of vLLM engines answers the rows; their answers are compared with what the rows say. Several
models are set side by side: `models: {base: smollm2-135m-instruct, tuned: "${stages.sft.model}"}`.
Stages that need this one start only when its gate is passed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from jobs.spec.dataset import EvaluationRowsSpec
from jobs.spec.fields import (
    Artifact,
    Input,
    ModelReference,
    SecretReference,
    Spec,
    StageSpec,
)
from jobs.spec.gate import BoundText
from jobs.spec.generation import GenerationSpec, PoolSpec

MetricName = Literal["loss", "exact_match", "accuracy", "bleu", "rouge", "classification"]

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Without dots, which separate it from the name of a metric."""

ONLY = "model"
"""The name of a model that is the only one."""


class LmEvalSpec(Spec):
    """Tasks of the library lm-eval, which must be installed: the extra `eval`.

    It asks models by itself: with vLLM where engines have GPUs, with transformers on CPUs.
    """

    tasks: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """Names of tasks, such as `gsm8k`, or YAML files with tasks of your own."""
    num_fewshot: NonNegativeInt | None = None
    """Solved examples before each question; the task's own number when absent."""
    limit: PositiveInt | None = None
    """Takes the first so many questions of each task; all when absent."""
    max_model_len: PositiveInt | None = None
    """Tokens of question and answer together; as many as the model looks at when absent."""
    apply_chat_template: bool = False
    """Asks in the model's chat template, and not in plain text."""


class EvaluateSpec(StageSpec):
    """Measures one or several models on rows that they were not trained on."""

    kind: Literal["evaluate"]
    """Measuring models."""
    model: ModelReference | None = None
    """The model: a full one, or an adapter, which is used with its base model."""
    models: dict[ModelName, ModelReference] = {}
    """Several models by names of your own, to set side by side; the first is the one that the
    others are compared with."""
    dataset: EvaluationRowsSpec | None = None
    """The rows to answer. Needed but where lm_eval alone is asked for."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = (
        "loss", "exact_match", "bleu", "rouge",
    )  # fmt: skip
    """What is measured. `loss`: loss, perplexity and token accuracy of the rows' own answers.
    `exact_match`, `bleu`, `rouge`: the model's answer against the row's. `accuracy`: final answers
    that are right, compared as mathematics. `classification`: precision, recall and F1 of
    `labels`. Shares are from 0 to 1, BLEU and ROUGE from 0 to 100."""
    level: Literal["word", "char"] = "word"
    """What BLEU and ROUGE count: words, Chinese ones too, or characters."""
    labels: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """The classes that `classification` looks for in answers."""
    generation: GenerationSpec = GenerationSpec()
    """How the model answers: by default, with the likeliest token each time."""
    engine: PoolSpec = PoolSpec()
    """The engines that answer."""
    gate: dict[str, BoundText] = {}
    """What metrics must be for the stages that need this one to start: `{accuracy: ">= 0.6"}`.
    Of several models, the first one's; another's as `NAME.accuracy`. Of lm-eval's tasks,
    `TASK.acc`."""
    lm_eval: LmEvalSpec | None = None
    """Tasks of lm-eval, which are measured besides."""
    hub_token: SecretReference | None = None
    """Opens a gated model on the hub: `${secret:HF_TOKEN}`."""

    @property
    def asked(self) -> dict[str, str]:
        """The models by name."""
        return {ONLY: self.model} if self.model else dict(self.models)

    @property
    def generates(self) -> bool:
        """Whether any metric looks at what models write."""
        return bool(self.dataset) and set(self.metrics) != {"loss"}

    @property
    def produces(self) -> Artifact:
        """The measured numbers."""
        return "report"

    @property
    def takes(self) -> dict[str, Input]:
        """The models, and datasets."""
        kinds: tuple[Artifact, ...] = ("model", "adapter", "export")
        models = {field: Input(value, kinds) for field, value in self.fields.items()}
        return models | (self.dataset.taken if self.dataset else {})

    @property
    def fields(self) -> dict[str, str]:
        """The models by the field that names each."""
        return {field_of(name, self): reference for name, reference in self.asked.items()}

    @property
    def processes_at_once(self) -> int:
        """The engines."""
        return self.engine.actors

    @property
    def cpus_per_process(self) -> int | None:
        """CPU cores of each engine."""
        return self.engine.cpus_per_actor

    @model_validator(mode="after")
    def _parts_fit(self) -> EvaluateSpec:
        if bool(self.model) == bool(self.models):
            given = "both are given; keep one" if self.model else "neither is given; add `model`"
            raise ValueError(f"a stage measures one model, or several by name, and {given}")
        if not self.dataset and not self.lm_eval:
            raise ValueError("there is nothing to measure on; add dataset: {test: [...]}")
        if "classification" in self.metrics and self.dataset and len(set(self.labels)) < 2:
            raise ValueError(
                "classification tells classes apart; name them: labels: [positive, negative]"
            )
        if self.labels and "classification" not in self.metrics:
            raise ValueError("labels are read by the metric classification alone; add it")
        return self


def field_of(name: str, spec: EvaluateSpec) -> str:
    """The field of the spec that names a model."""
    return ONLY if spec.model else f"models.{name}"

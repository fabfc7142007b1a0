"""`kind: export`: a model in the form that others want it in, and where they want it.

    export:
      kind: export
      model: ${stages.sft.model}          # an adapter is merged on the way
      quantize: {method: int8}
      ollama: {system: You are a helpful assistant.}
      push: {to: hf://org/name, token: "${secret:HF_TOKEN}"}

The result is a folder that transformers and vLLM load as it is: weights in safetensors, tokenizer,
chat template, and a model card made of the run's record. `gguf` adds a file for llama.cpp, and
`ollama` a Modelfile beside it. `push` comes last, when the folder is committed: a push that fails
costs no more than the push.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.spec.fields import (
    Artifact,
    ByteSize,
    Input,
    ModelReference,
    SecretReference,
    Spec,
    StageSpec,
)
from jobs.spec.training import Dtype

_DESTINATION = re.compile(
    r"^(?P<scheme>hf|ms)://(?P<repo>[\w][\w.-]*/[\w][\w.-]*)$"
    r"|^s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/(?!\.\.?(/|$))[^/\s]+)*)/?$"
)


def _check_method(value: object) -> object:
    if value in ("gptq", "awq"):
        # GPTQModel 7.7 needs torch 2.14 and transformers 5.20, llm-compressor 0.14 transformers
        # 5.17 at most: neither can be installed beside our vLLM. To be looked at with its releases.
        raise ValueError(
            f"{value} is made by libraries that can't be installed beside this version's torch and "
            "transformers; take int8, fp8 or bnb, or quantize the exported folder in an "
            "environment of its own"
        )
    return value


QuantizeMethod = Literal["int8", "fp8", "bnb"]
GgufType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class QuantizeSpec(Spec):
    """Weights of fewer bits. None of these methods needs calibration data."""

    method: Annotated[QuantizeMethod, BeforeValidator(_check_method)]
    """`int8`: weights and activations of 8 bits, which vLLM computes with on CPUs and GPUs.
    `fp8`: the same in 8-bit floating point. `bnb`: bitsandbytes' 4-bit NF4, which takes least
    memory, for transformers, and for vLLM on GPUs."""
    ignore: tuple[str, ...] = ("lm_head",)
    """Linear layers that keep their precision: names, or `re:` and a pattern."""
    max_perplexity_increase: Annotated[float, Field(gt=0)] | None = None
    """The most that perplexity on a fixed text may rise, as a share: 0.1 is 10 %. When it rises
    more, the stage fails. Unbounded when absent; the rise is reported either way."""


class GgufSpec(Spec):
    """A file for llama.cpp, made of the weights before they are quantized."""

    outtype: GgufType = "q8_0"
    """How matrices are stored; vectors are always float32."""


class OllamaSpec(Spec):
    """A Modelfile, with which `ollama create NAME -f Modelfile` takes the GGUF file in."""

    system: str | None = None
    """The system message; the chat template's own when absent."""
    parameters: dict[str, float | int | str] = {}
    """Ollama's settings of the answer, such as `temperature`, `top_p`, `num_ctx`."""


class CardSpec(Spec):
    """What the run's record does not know of the model."""

    license: str | None = None
    """The license's identifier on the hub, such as `apache-2.0`; the base model's when absent and
    known."""
    language: tuple[str, ...] = ()
    """Languages by their codes, such as `en` and `zh`."""
    tags: tuple[str, ...] = ()
    """More tags."""
    description: str = ""
    """What the model is for, in Markdown."""


def _check_destination(value: str) -> str:
    if not _DESTINATION.match(value):
        raise ValueError(
            f"{value!r} is no place to push to; write hf://org/name, ms://org/name or "
            "s3://bucket/prefix"
        )
    return value


class PushSpec(Spec):
    """Where the result is uploaded to. What is there already and equal is not sent again."""

    to: Annotated[
        str, AfterValidator(_check_destination), Field(examples=["hf://org/name", "s3://bucket/x"])
    ]
    """`hf://org/name` (Hugging Face), `ms://org/name` (ModelScope) or `s3://bucket/prefix`."""
    private: bool = True
    """Whether a repository that is made for this can be seen by its owners alone."""
    revision: str | None = None
    """The branch to write to; the hub's main branch when absent."""
    commit_message: str | None = None
    """What the hub's history says; names run and stage when absent."""
    token: SecretReference | None = None
    """The hub's token: `${secret:HF_TOKEN}`. S3 takes its credentials from the usual AWS
    variables of the worker, or its machine's role."""

    @property
    def scheme(self) -> Literal["hf", "ms", "s3"]:
        """Which kind of place it is."""
        scheme = self.to.partition("://")[0]
        return "hf" if scheme == "hf" else "ms" if scheme == "ms" else "s3"

    @property
    def repository(self) -> str:
        """The hub's `org/name`."""
        return self.to.partition("://")[2]

    @property
    def bucket(self) -> str:
        """The bucket of an S3 address."""
        return self.to.partition("://")[2].partition("/")[0]

    @property
    def prefix(self) -> str:
        """What an S3 address says behind the bucket, without slashes around it."""
        return self.to.partition("://")[2].partition("/")[2].strip("/")

    @model_validator(mode="after")
    def _belongs_to_a_hub(self) -> PushSpec:
        if self.scheme == "s3":
            given = [
                name for name in ("revision", "commit_message", "token") if getattr(self, name)
            ]
            if given:
                raise ValueError(f"{', '.join(given)}: S3 has no such thing; take it out")
        return self


class ExportSpec(StageSpec):
    """Writes a model in the form that others want it in."""

    kind: Literal["export"]
    """Exporting a model."""
    model: ModelReference
    """A full model, or an adapter, which is merged into its base model."""
    torch_dtype: Dtype | None = None
    """Precision of the weights; the model's own when absent."""
    max_shard_size: ByteSize = "5GB"
    """The most bytes in one weights file."""
    quantize: QuantizeSpec | None = None
    """Weights of fewer bits."""
    gguf: GgufSpec | None = None
    """A file for llama.cpp."""
    ollama: OllamaSpec | None = None
    """A Modelfile for Ollama, and the GGUF file that it needs."""
    card: CardSpec = CardSpec()
    """What the model card says beside the run's record."""
    push: PushSpec | None = None
    """Where to upload the result to."""
    hub_token: SecretReference | None = None
    """Opens a gated base model on the hub: `${secret:HF_TOKEN}`."""

    @property
    def gguf_wanted(self) -> GgufSpec | None:
        """The GGUF file to make: Ollama needs one as well."""
        return self.gguf or (GgufSpec() if self.ollama else None)

    @property
    def produces(self) -> Artifact:
        """A full model, in the form that was asked for."""
        return "export"

    @property
    def takes(self) -> dict[str, Input]:
        """The model."""
        return {"model": Input(self.model, ("model", "adapter"))}

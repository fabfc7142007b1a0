"""`kind: merge`: folds an adapter into its base model.

    merge: {kind: merge, model: "${stages.sft.model}"}

The result is a full model in safetensors with tokenizer and chat template, which any other
program can load. Its logits equal those of base and adapter together.
"""

from __future__ import annotations

from typing import Literal

from jobs.spec.fields import Artifact, ByteSize, Input, ModelReference, SecretReference, StageSpec
from jobs.spec.training import Dtype


class MergeSpec(StageSpec):
    """Folds an adapter into its base model."""

    kind: Literal["merge"]
    """Merging an adapter."""
    model: ModelReference
    """The adapter: another stage's, or a folder with an `adapter_config.json`."""
    torch_dtype: Dtype | None = None
    """Precision of the merged weights; the base model's when absent. The sum is always taken in
    float32."""
    max_shard_size: ByteSize = "5GB"
    """The most bytes in one weights file."""
    hub_token: SecretReference | None = None
    """Opens a gated base model on the hub: `${secret:HF_TOKEN}`."""

    @property
    def produces(self) -> Artifact:
        """A full model."""
        return "model"

    @property
    def takes(self) -> dict[str, Input]:
        """The adapter."""
        return {"model": Input(self.model, ("adapter",))}

"""A merge stage: the adapter's update is added to the base model's weights, in float32."""

from __future__ import annotations

import time
from pathlib import Path

from jobs.errors import RaysmithError, UserError
from jobs.spec.fields import size_bytes
from jobs.spec.merge import MergeSpec
from storage.commit import begin, commit
from workloads.context import StageContext, StageResult
from workloads.models.adapters import base_model
from workloads.models.resolve import ModelSource, resolve_model

_TOLERANCE = 1e-3
"""Largest difference of logits, as a share of the largest logit, that float32 sums may bring."""


def run(context: StageContext) -> StageResult:
    """Merges an adapter into its base model and commits the result.

    Raises:
        ForeignFolder: if the artifact's folder holds files that this stage did not write.
        RaysmithError: if the merged model computes something else than base and adapter.
    """
    spec = context.stage.spec
    assert isinstance(spec, MergeSpec)
    clock = time.monotonic()
    begin(context.artifact, context.owner)
    import ray

    adapter = context.inputs.get("model")
    if adapter is None:
        adapter = Path(resolve_model(spec.model, context.base_folders).name)
    base = base_model(adapter, context.base_folders)
    ray.get(ray.remote(_merge).remote(str(adapter), base, str(context.artifact), spec))
    commit(context.artifact, context.owner, {"type": "model"})
    return StageResult(finished=True, timings={"merge": time.monotonic() - clock})


def _merge(adapter: str, base: ModelSource, target: str, spec: MergeSpec) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from workloads.models.local import localize

    folder = localize(base, spec.hub_token)
    dtype = (
        getattr(torch, spec.torch_dtype)
        if spec.torch_dtype
        else AutoConfig.from_pretrained(folder).dtype
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    try:
        adapted = PeftModel.from_pretrained(model, adapter).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the adapter in {adapter} does not fit the base model {base.name}: {error}",
            "check base_model_name_or_path in its adapter_config.json",
        ) from error
    probe = torch.arange(1, 17).unsqueeze(0) % model.config.vocab_size  # (1, 16)
    with torch.no_grad():
        expected = adapted(input_ids=probe).logits
        merged = adapted.merge_and_unload(safe_merge=True)
        difference = (merged(input_ids=probe).logits - expected).abs().max()
        share = float(difference / expected.abs().max())
    if not share <= _TOLERANCE:
        raise RaysmithError(
            f"the merged model's logits differ from base and adapter by {share:.2%}",
            "this kind of adapter can't be folded into its base: serve base and adapter instead",
        )
    merged.to(dtype).save_pretrained(target, max_shard_size=size_bytes(spec.max_shard_size))
    own = Path(adapter, "tokenizer_config.json").is_file()
    AutoTokenizer.from_pretrained(adapter if own else folder).save_pretrained(target)

"""A merge stage: the adapter's update is added to the base model's weights, in float32."""

from __future__ import annotations

import time
from pathlib import Path

from jobs.spec.fields import size_bytes
from jobs.spec.merge import MergeSpec
from storage.commit import begin, commit
from workloads.context import StageContext, StageResult
from workloads.models.adapter import base_model
from workloads.models.resolve import ModelSource, resolve_model


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
    commit(context.artifact, context.owner, context.meta(type="model"))
    return StageResult(finished=True, timings={"merge": time.monotonic() - clock})


def _merge(adapter: str, base: ModelSource, target: str, spec: MergeSpec) -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from workloads.merge.fold import fold, tokenizer_folder
    from workloads.models.local import localize

    folder = localize(base, spec.hub_token)
    dtype = (
        getattr(torch, spec.torch_dtype)
        if spec.torch_dtype
        else AutoConfig.from_pretrained(folder).dtype
    )
    merged = fold(folder, adapter)
    merged.to(dtype).save_pretrained(target, max_shard_size=size_bytes(spec.max_shard_size))
    AutoTokenizer.from_pretrained(tokenizer_folder(folder, adapter)).save_pretrained(target)

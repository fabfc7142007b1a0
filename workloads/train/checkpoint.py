"""Checkpoints: the model as anyone can load it, and the rest of what an exact resume needs.

    checkpoint-<step>/
      adapter_model.safetensors or model*.safetensors, their configs, tokenizer
      optimizer-<rank>.safetensors    float32 weights and AdamW's moments, by weight; each worker
                                      writes its share of the weights
      rng-<rank>.safetensors          state of torch's random generators
      trainer_state.json              step, loss scale, log history

Nothing depends on the number of workers or the ZeRO stage that wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from storage.commit import add, begin, commit
from storage.manifest import FileEntry, Owner
from workloads.train.state import (
    WEIGHT,
    gather,
    loss_scale,
    scatter,
    set_loss_scale,
    trained_parameters,
)

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedTokenizerFast

STATE_FILE = "trainer_state.json"


def save(
    engine: DeepSpeedEngine,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    owner: Owner,
    state: Mapping[str, Any],
    texts: Mapping[str, str],
    weights_beside: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Writes and commits a checkpoint. Collective; returns when it is committed.

    `state` is JSON with at least `global_step`; `texts` and `weights_beside` are further files by
    name, which the first worker writes.
    """
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if rank == 0:
        begin(folder, owner)
    torch.distributed.barrier()
    weights: dict[str, Tensor] = {}
    share: dict[str, Tensor] = {}
    for index, (name, parameter) in enumerate(trained_parameters(engine.module)):
        tensors = gather(engine, parameter)
        if rank == 0:
            weights[name] = tensors[WEIGHT].to(parameter.dtype)
        if index % world_size == rank:
            share |= {f"{key}:{name}": tensor for key, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)  # on a machine of its own
    own = [f"optimizer-{rank:05d}.safetensors", f"rng-{rank:05d}.safetensors"]
    for name, tensors in zip(own, (share, _rng_state()), strict=True):
        save_file(tensors, folder / name)
    if rank == 0:
        save_model(engine.module, weights, tokenizer, folder)
        whole = {**state, "world_size": world_size, "loss_scale": loss_scale(engine)}
        (folder / STATE_FILE).write_text(json.dumps(whole))
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, content in weights_beside.items():
            save_file(dict(content), folder / name)
    added: list[tuple[FileEntry, ...]] = [()] * world_size
    torch.distributed.all_gather_object(added, () if rank == 0 else add(folder, own, owner))
    if rank == 0:
        meta = {"type": "checkpoint", "step": state["global_step"], "world_size": world_size}
        commit(folder, owner, meta, chain.from_iterable(added))
    torch.distributed.barrier()


def save_model(
    module: nn.Module,
    trained: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
) -> None:
    """Writes the adapter or the full model with its tokenizer, as `from_pretrained` reads it."""
    buffers = set(module.state_dict()) - {
        n for n, _ in module.named_parameters(remove_duplicate=False)
    }
    kept = {name: tensor for name, tensor in module.state_dict().items() if name in buffers}
    module.save_pretrained(folder, state_dict={**kept, **trained})
    # PEFT adds a form for a model card, to be filled in by hand.
    (folder / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Loads a checkpoint's adapter into a model that has one of the same shape."""
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))


def restore(engine: DeepSpeedEngine, folder: Path) -> dict[str, Any]:
    """Sets the optimiser as `save` found it and returns the state saved with it. Collective.

    The model's weights have been loaded from the same folder before the engine was made, and
    `state.allocate` was called with the checkpoint's step.
    """
    state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    parameters = dict(trained_parameters(engine.module))
    for file in sorted(folder.glob("optimizer-*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in sorted({key.partition(":")[2] for key in tensors.keys()}):  # noqa: SIM118
                whole = {
                    key.partition(":")[0]: tensors.get_tensor(key)
                    for key in tensors.keys()  # noqa: SIM118
                    if key.partition(":")[2] == name
                }
                scatter(engine, parameters[name], whole)
    set_loss_scale(engine, state["loss_scale"])
    rng = folder / f"rng-{torch.distributed.get_rank():05d}.safetensors"
    if rng.exists():
        _set_rng_state(load_file(rng))
    return state


def _rng_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_rng_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])

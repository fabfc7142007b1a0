"""What training will hold in memory, by arithmetic from the spec and the model's shape.

Sources of the formulas, in bytes per worker:

- States (weights, gradients, the optimiser's float32 copy and its two moments, shared out by ZeRO's
  stage): Rajbhandari et al., 2019, https://arxiv.org/abs/1910.02054, section 3.
- Activations of a layer: Korthikanti et al., 2022, https://arxiv.org/abs/2205.05198, section 4.1,
  without its attention matrix and dropout masks, since attention is computed in blocks, and with
  the three matrices of a gated MLP. With checkpointing a layer keeps its input, and one is
  recomputed.
- Logits: rows x tokens x vocabulary, as computed, as float32 for the loss, and both again as
  gradients. With a vocabulary far wider than the model they may be the largest part.

Rows are taken to be as long as the spec lets them be, so activations and logits are upper bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from jobs.spec.training import TrainingSpec
from jobs.spec.tuner import LoraSpec

_GB = 10**9
_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_FLOAT32 = 4
_SHOWN = 10**6
"""Bytes from which a part is worth a word."""
_TIGHT = 0.8
"""The share of the memory from which a fit is tight: allocators need some room."""
_RUNTIME_BYTES = 900_000_000
"""What a worker's libraries hold whatever its model, as measured on CPUs with a tiny one."""
_ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Verdict = Literal["fits", "tight", "does not fit"]


@dataclass(frozen=True)
class ModelShape:
    """What a decoder's memory follows from; of its config.json and its weights' headers."""

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear layers of a block, with what they take and give."""
        query, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        wide = self.intermediate
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, wide),
            "up_proj": (self.hidden, wide),
            "down_proj": (wide, self.hidden),
        }


@dataclass(frozen=True)
class Estimate:
    """Bytes that one training worker holds, by what for. `host` parts lie in host memory always."""

    terms: dict[str, int]
    host: dict[str, int]
    on_gpu: bool
    workers: int

    @property
    def total(self) -> int:
        """Bytes on the device: the GPU, or the worker's share of the machine's memory."""
        return sum(self.terms.values()) + (0 if self.on_gpu else sum(self.host.values()))

    def verdict(self, memory_bytes: float) -> Verdict:
        """Whether one worker has room in so many bytes."""
        if self.total > memory_bytes:
            return "does not fit"
        return "tight" if self.total > _TIGHT * memory_bytes else "fits"

    def __str__(self) -> str:
        device = "of GPU memory" if self.on_gpu else "of memory"
        each = " each" if self.workers > 1 else ""
        parts = self.terms | {f"{name} on the host": size for name, size in self.host.items()}
        shown = {name: in_words(size) for name, size in parts.items() if size >= _SHOWN}
        terms = " + ".join(f"{name} {size}" for name, size in shown.items())
        count = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return f"{count} with at most {in_words(self.total)} {device}{each}: {terms}"


def estimate(spec: SftSpec | GrpoSpec, shape: ModelShape) -> Estimate:
    """What a worker of the stage holds at its most."""
    training, workers = spec.training, spec.resources.workers
    size = _DTYPE_BYTES[training.torch_dtype]
    stage, offload = int(training.deepspeed[4]), training.deepspeed.endswith("_offload")
    trained, frozen = trained_parameters(spec, shape)
    # DeepSpeed's optimisers keep a float32 copy, but where there is nothing for them to do.
    plain = stage == 0 and training.torch_dtype == "float32"
    states = trained * _FLOAT32 * (2 if plain else 3) // (workers if stage >= 1 else 1)
    terms = {
        "weights": (frozen + trained) * size // (workers if stage >= 3 else 1),
        "gradients": trained * size // (workers if stage >= 2 else 1),
        "optimizer": 0 if offload else states,
        "activations": activations(training, shape, tokens_of(spec), is_checkpointed(spec)),
        "logits": logits(training, shape, learned_of(spec)),
        "runtime": _RUNTIME_BYTES,
    }
    if isinstance(spec, GrpoSpec) and spec.algorithm.beta and not isinstance(spec.tuner, LoraSpec):
        terms["reference"] = shape.parameters * size // (workers if stage >= 3 else 1)
    host = {"optimizer": states} if offload else {}
    return Estimate(terms, host, spec.resources.gpus_per_worker > 0, workers)


def trained_parameters(spec: SftSpec | GrpoSpec, shape: ModelShape) -> tuple[int, int]:
    """How many weights are trained, and how many stay as they are."""
    tuner = spec.tuner
    if not isinstance(tuner, LoraSpec):
        return shape.parameters, 0
    wanted = _ALL_LINEAR if tuner.target_modules == "all-linear" else tuner.target_modules
    linear = shape.linear
    # A path or pattern that is no plain name counts as the widest layer.
    widest = max(linear.values(), key=sum)
    sides = (linear.get(name.rpartition(".")[2], widest) for name in wanted)
    return shape.layers * sum(tuner.rank * (into + out) for into, out in sides), shape.parameters


def activations(training: TrainingSpec, shape: ModelShape, tokens: int, checkpointed: bool) -> int:
    """Bytes that the layers keep of a pass for the backward pass."""
    size, places = _DTYPE_BYTES[training.torch_dtype], training.per_device_train_batch_size * tokens
    # Norms, queries, keys, values, attention's output and what goes into each of them.
    layer = places * size * (9 * shape.hidden + 4 * shape.intermediate)
    if not checkpointed:
        return layer * shape.layers
    return places * size * shape.hidden * shape.layers + layer


def logits(training: TrainingSpec, shape: ModelShape, tokens: int) -> int:
    """Bytes of a pass's logits, with their float32 copy and the gradients of both."""
    places = training.per_device_train_batch_size * tokens
    return places * shape.vocabulary * 2 * (_DTYPE_BYTES[training.torch_dtype] + _FLOAT32)


def tokens_of(spec: SftSpec | GrpoSpec) -> int:
    """The most tokens of a row."""
    written = spec.rollout.max_completion_length if isinstance(spec, GrpoSpec) else 0
    return spec.dataset.max_length + written


def learned_of(spec: SftSpec | GrpoSpec) -> int:
    """The most tokens of a row that have logits: of a completion, or of a conversation."""
    if isinstance(spec, GrpoSpec):
        return spec.rollout.max_completion_length
    return spec.dataset.max_length


def is_checkpointed(spec: SftSpec | GrpoSpec) -> bool:
    """Whether activations are recomputed, as the spec or the device says."""
    chosen = spec.training.gradient_checkpointing
    return spec.resources.gpus_per_worker > 0 if chosen is None else chosen


def in_words(count: float) -> str:
    """A size as people read it, in decimal units."""
    return f"{count / _GB:.1f} GB" if count >= _GB / 10 else f"{count / 10**6:.0f} MB"

"""What passes between the pool, the rewards and the train workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workloads.data.rows import Message

if TYPE_CHECKING:
    from workloads.data.prompts import Prompt


@dataclass
class Sample:
    """One completion of a prompt, from the first token to its advantage."""

    number: int
    """Its place in its group, from 0."""
    prompt_ids: list[int] | None = None
    """The prompt's tokens, where the environment changed them."""
    token_ids: list[int] = field(default_factory=list)
    """(T,) the model's tokens, and between its turns those of the environment."""
    learned: list[bool] = field(default_factory=list)
    """(T,) whether the model wrote the token."""
    logprobs: list[float] = field(default_factory=list)
    """(T,) as the engine sampled them; 0 for the environment's tokens."""
    messages: list[Message] = field(default_factory=list)
    """What was said after the prompt."""
    versions: tuple[int, int] | None = None
    """The oldest and the newest weights that wrote a part of it."""
    truncated: bool = False
    environment_reward: float | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)
    """By label, before weights."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why it can't be learned from: what failed, and how."""
    reward: float | None = None
    advantage: float = 0.0

    @property
    def text(self) -> str:
        """What the model said last."""
        said = [m["content"] for m in self.messages if m["role"] == "assistant"]
        return said[-1] if said else ""


@dataclass
class Group:
    """The completions of one prompt."""

    position: int
    """Of the prompt in the stream over all epochs."""
    uid: str
    """`<epoch>-<row>`."""
    prompt: Prompt
    samples: list[Sample]

    @property
    def usable(self) -> int:
        """Completions that can be compared."""
        return sum(not sample.failures for sample in self.samples)


@dataclass(frozen=True)
class TrainRow:
    """What a train worker is given of a completion."""

    key: int
    """Its own for all time; randomness in training follows from it."""
    prompt_ids: list[int]
    token_ids: list[int]
    learned: list[bool]
    logprobs: list[float]
    advantage: float
    counts: bool
    """False for completions that failed: they are in no mean."""


@dataclass(frozen=True)
class Batch:
    """A generation batch, ready to be trained on."""

    index: int
    rows: list[TrainRow]
    metrics: dict[str, float]
    preview: list[dict[str, Any]]
    """A completion for the log."""


@dataclass(frozen=True)
class Wanted:
    """What the first train worker is to do next."""

    what: Literal["wait", "sync", "train", "stop"]
    done: int = 0
    """Completions of the batch that are written."""
    total: int = 0


@dataclass(frozen=True)
class Receiver:
    """An engine that is to be given weights."""

    index: int
    incarnation: int
    handle: Any

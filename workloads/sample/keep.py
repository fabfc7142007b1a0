"""Which of a prompt's answers become rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.spec.sample import KeepSpec


@dataclass(frozen=True)
class Scored:
    """One answer, with what the rewards say of it."""

    text: str
    truncated: bool
    rewards: Mapping[str, float | None]
    """By the rewards' labels; None where one has nothing to say."""
    reward: float | None
    """The weighted sum; None where there are no rewards, or the answer could not be scored."""
    failure: str | None = None
    """Why it could not be scored."""


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of the rewards that say something; None where none does."""
    said = [weights[label] * value for label, value in rewards.items() if value is not None]
    return sum(said) if said else None


def kept(answers: Sequence[Scored], keep: KeepSpec, is_scored: bool) -> list[Scored]:
    """The answers to keep, the best first where they have rewards, and otherwise as they came."""
    usable = [
        answer
        for answer in answers
        if answer.text.strip()
        and (keep.truncated or not answer.truncated)
        and (not is_scored or answer.reward is not None)
        and (keep.min_reward is None or (answer.reward or 0.0) >= keep.min_reward)
    ]
    if keep.unique:
        first: dict[str, Scored] = {}
        for answer in usable:
            first.setdefault(answer.text, answer)
        usable = list(first.values())
    if is_scored:
        # A stable sort: of equal rewards the one that came first.
        usable.sort(key=lambda answer: answer.reward or 0.0, reverse=True)
    return usable[: keep.best]

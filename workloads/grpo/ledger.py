"""Which prompts were dispatched, trained on and left out; so none is lost or trained on twice.

Prompts are counted by their position in the stream over all epochs. Positions are dispatched in
order, so what is under way is what was dispatched and neither trained on nor left out.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from workloads.grpo.positions import Positions


@dataclass
class Ledger:
    """The state of the stream; `to_json` goes into every checkpoint."""

    next_position: int = 0
    trained: Positions = field(default_factory=Positions)
    filtered: Positions = field(default_factory=Positions)
    """Prompts that taught nothing and were replaced, or whose completions all failed."""
    completed: set[int] = field(default_factory=set)
    """Prompts whose completions are scored and not trained on yet; they are not saved."""
    again: deque[int] = field(default_factory=deque)
    """Prompts that were under way when the run was interrupted, to be dispatched again."""

    def dispatch(self) -> int:
        """The position of the next prompt to complete."""
        if self.again:
            return self.again.popleft()
        self.next_position += 1
        return self.next_position - 1

    def complete(self, position: int) -> None:
        """Records that a prompt's completions are scored."""
        self.completed.add(position)

    def filter(self, position: int) -> None:
        """Records that a prompt was left out."""
        self.completed.discard(position)
        self.filtered.add(position)

    def train(self, positions: Iterable[int]) -> None:
        """Records that prompts were trained on.

        Raises:
            ValueError: if one was before, or was never completed.
        """
        for position in positions:
            if position in self.trained or position not in self.completed:
                raise ValueError(f"prompt {position} is trained on twice, or without completions")
            self.completed.remove(position)
            self.trained.add(position)

    def counts(self) -> dict[str, int]:
        """How many prompts are where."""
        done = len(self.trained) + len(self.filtered)
        return {
            "dispatched": self.next_position,
            "trained": len(self.trained),
            "filtered": len(self.filtered),
            "under_way": self.next_position - done,
        }

    def to_json(self) -> str:
        """What `from_json` reads: positions as ranges, ends included."""
        content = {
            "next_position": self.next_position,
            "trained": self.trained.ranges(),
            "filtered": self.filtered.ranges(),
        }
        return json.dumps({**content, "counts": self.counts()})

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """The ledger of a checkpoint; what was under way then is dispatched again."""
        content = json.loads(text)
        trained, filtered = Positions(content["trained"]), Positions(content["filtered"])
        again: deque[int] = deque()
        following = 0
        for first, last in sorted(trained.ranges() + filtered.ranges()):
            again.extend(range(following, first))
            following = last + 1
        again.extend(range(following, content["next_position"]))
        return cls(content["next_position"], trained, filtered, again=again)

"""A part of a spec that is wrong, and the problem that is expected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.resolve import resolve


@dataclass(frozen=True)
class Broken:
    """A part of the spec, what stands there instead, and the problem that is expected."""

    before: str
    after: str
    place: tuple[int, int]
    message: str
    remedy: str = ""

    def check(self, spec: str, folder: Path) -> str:
        """Fails unless the broken spec has the problem. Returns all that is said of it."""
        assert self.before in spec
        file = folder / "job.yaml"
        file.write_text(spec.replace(self.before, self.after, 1))
        with pytest.raises(SpecError) as caught:
            resolve(load(file, (), {}), "./runs")
        assert any(
            (problem.file, problem.line, problem.column) == (str(file), *self.place)
            and self.message in problem.message
            and self.remedy in (problem.remedy or "")
            for problem in caught.value.problems
        ), str(caught.value)
        return str(caught.value)

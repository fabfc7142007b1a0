"""What a terminal shows while a run goes on.

The controller tells a `View` what happens; which view it is depends on where the output goes: a
tree that is redrawn on a terminal, lines without escape codes everywhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from jobs.observed import Clock, Progress, StageStatus, utc_now
from jobs.state import StageState
from jobs.view.status import STYLES, describe, duration, elapsed_s, shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

_MARKS = {
    StageState.PENDING: "○",
    StageState.RUNNING: "●",
    StageState.RETRYING: "↻",
    StageState.SUCCEEDED: "✔",
    StageState.CACHED: "✔",
    StageState.FAILED: "✘",
    StageState.STOPPED: "■",
    StageState.SKIPPED: "–",
}
_LINE_EVERY_S = 10.0
_REDRAWS_PER_SECOND = 4


class View(Protocol):
    """Shows a run while it goes on. All calls come from one thread; none of them blocks."""

    def stage_changed(self, status: StageStatus) -> None:
        """A stage has moved to another state, or another attempt."""
        ...

    def progress(self, stage: str, progress: Progress) -> None:
        """A stage has said how far it is; the same progress may come again."""
        ...

    def note(self, text: str) -> None:
        """Something else that the user should know."""
        ...

    def __enter__(self) -> Self:
        """Starts showing."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the terminal in order."""
        ...


class PlainView:
    """One line for each thing that happens; progress at most every 10 s or 10 % of the steps."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last: dict[str, tuple[float, Progress]] = {}

    def stage_changed(self, status: StageStatus) -> None:
        """See `View`."""
        self._last.pop(status.name, None)
        self._line(f"[{status.name}] {_outcome(status)}")

    def progress(self, stage: str, progress: Progress) -> None:
        """See `View`."""
        now = self._clock()
        if (last := self._last.get(stage)) and not _worth_a_line(*last, now, progress):
            return
        if text := describe(progress):
            self._last[stage] = now, progress
            self._line(f"[{stage}] {text}")

    def note(self, text: str) -> None:
        """See `View`."""
        self._line(text)

    def __enter__(self) -> Self:
        """See `View`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See `View`."""

    def _line(self, text: str) -> None:
        # In one piece: stages tell from threads of their own.
        self._stream.write(f"{text}\n")
        self._stream.flush()


class LiveView:
    """A tree of the run's stages, redrawn in place by rich."""

    def __init__(self, stages: Iterable[StageStatus], stream: TextIO, now: Clock = utc_now) -> None:
        from rich.console import Console
        from rich.live import Live

        self._stages = {stage.name: stage for stage in stages}
        self._progress: dict[str, Progress] = {}
        self._now = now
        self._console = Console(file=stream, highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=_REDRAWS_PER_SECOND,
        )

    def stage_changed(self, status: StageStatus) -> None:
        """See `View`."""
        if status.attempt != self._stages[status.name].attempt:
            self._progress.pop(status.name, None)
        self._stages[status.name] = status

    def progress(self, stage: str, progress: Progress) -> None:
        """See `View`."""
        self._progress[stage] = progress

    def note(self, text: str) -> None:
        """See `View`."""
        self._console.print(text, markup=False)

    def __enter__(self) -> Self:
        """See `View`."""
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See `View`."""
        self._live.stop()

    def render(self) -> Tree:
        """The tree as it stands now."""
        from rich.text import Text
        from rich.tree import Tree

        tree = Tree("stages", hide_root=True)
        # A copy: rich draws from a thread of its own while the controller changes states.
        for stage in list(self._stages.values()):
            seconds = elapsed_s(stage, self._now())
            label = Text.assemble(
                (f"{_MARKS[stage.state]} {stage.name}", STYLES[stage.state]),
                f"  {stage.kind}  {_outcome(stage)}",
                ("" if seconds is None else f"  {duration(seconds)}", "dim"),
            )
            node = tree.add(label)
            progress = self._progress.get(stage.name)
            if progress and stage.state is StageState.RUNNING:
                node.add(_bar(progress))
                if progress.table:
                    node.add(table_of(progress.table))
        return tree


def open_view(
    stages: Sequence[StageStatus], stream: TextIO, environ: Mapping[str, str]
) -> LiveView | PlainView:
    """The view for `stream`: live on a terminal unless NO_COLOR or TERM=dumb forbids it."""
    if stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb":
        return LiveView(stages, stream)
    return PlainView(stream)


def _outcome(status: StageStatus) -> str:
    match status.state:
        case StageState.RUNNING if status.attempt > 1:
            return f"running (attempt {status.attempt})"
        case StageState.CACHED if status.artifact:
            return f"cached: {shown(status.artifact)}"
        case StageState.FAILED | StageState.RETRYING:
            first_line = (status.message or "").partition("\n")[0]
            return ": ".join(filter(None, (status.state.value, status.reason, first_line)))
        case _:
            return status.state.value


def _worth_a_line(then: float, old: Progress, now: float, new: Progress) -> bool:
    if new == old:
        return False
    return _tenths(new) != _tenths(old) or new.phase != old.phase or now - then >= _LINE_EVERY_S


def _tenths(progress: Progress) -> int:
    # In whole numbers: 0.3 - 0.2 is less than 0.1 to a float.
    return (progress.step or 0) * 10 // progress.max_steps if progress.max_steps else 0


def table_of(rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table for the terminal; the first row names the columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in body:
        table.add_row(*map(Text, row))  # brackets in a value are no markup
    return table


def _bar(progress: Progress) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    text = Text(describe(progress), no_wrap=True, overflow="ellipsis")
    if progress.share is None:
        return text
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=1, completed=progress.share, width=12), text)
    return row

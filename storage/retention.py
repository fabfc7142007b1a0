"""Which checkpoints of a stage stay on disk."""

from pathlib import Path

from storage.commit import discard
from storage.committed import Verdict, inspect, read_owner
from storage.layout import StageLayout


def prune(
    stage_layout: StageLayout, keep: int | None, protect: frozenset[Path] | set[Path] = frozenset()
) -> list[Path]:
    """Delete checkpoints that are no longer needed, oldest first, and return those deleted.

    Of the committed ones the newest `keep` stay (None: all), and those in `protect`. Uncommitted
    ones stay while no newer one is committed, since they may be in the making; then they are
    garbage. A folder that nobody claimed by `commit.begin`, or that cannot be read now, stays.

    Raises:
        ValueError: `keep` is less than 1; the newest committed checkpoint is never deleted.
        OSError: the disk refuses to delete.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be 1 or more, or None for all, not {keep}")
    folders = stage_layout.checkpoints()
    verdicts = {folder: inspect(folder) for folder in folders}
    committed = [folder for folder in folders if verdicts[folder].committed]
    if not committed:
        return []
    kept = set(committed if keep is None else committed[-keep:]) | protect
    older = folders[: folders.index(committed[-1])]
    doomed = [each for each in older if each not in kept and _is_ours(each, verdicts[each])]
    for folder in doomed:
        discard(folder)
    return doomed


def _is_ours(folder: Path, verdict: Verdict) -> bool:
    return verdict.readable and read_owner(folder) is not None

"""The picture of what ran when: generation, rewards, training and weight updates, by batch."""

from __future__ import annotations

import json
from pathlib import Path

LANES = ("generation", "reward", "training", "sync")
_SHOWN_BATCHES = 40


def draw_timeline(source: Path, folder: Path) -> None:
    """Draws the last batches of `timeline.jsonl` as `timeline.png` in `folder`."""
    if not source.exists():
        return
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in source.read_text().splitlines()]
    spans = [record for record in records if record["what"] in LANES]
    if not spans:
        return
    newest = max(span["batch"] for span in spans)
    spans = [span for span in spans if span["batch"] > newest - _SHOWN_BATCHES]
    zero = min(span["start"] for span in spans)
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    axes = figure.subplots()
    for span in spans:
        lane = LANES.index(span["what"])
        width = span["stop"] - span["start"]
        # Batches take turns in shade, so that their ends are seen where they touch.
        axes.broken_barh(
            [(span["start"] - zero, width)],
            (lane - 0.4, 0.8),
            facecolors=f"C{lane}",
            alpha=1.0 if span["batch"] % 2 else 0.6,
        )
    axes.set_yticks(range(len(LANES)), LANES)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.grid(axis="x", alpha=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "timeline.png", dpi=100)

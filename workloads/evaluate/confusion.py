"""The picture of a confusion matrix."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

_INCHES_PER_CLASS, _LEAST_INCHES, _MOST_INCHES = 0.6, 5.0, 24.0
_MOST_NUMBERED = 40
"""Classes of a matrix whose fields have room for a number."""
_FILTERS = Lock()


def draw_confusion(classification: Mapping[str, Any], file: Path) -> None:
    """Draws how often rows of a class were answered with each class, as a PNG.

    `classification` has `labels` and `confusion_matrix`, a line to each class of the rows.
    """
    from matplotlib.figure import Figure

    names, matrix = classification["labels"], classification["confusion_matrix"]
    size = min(max(_INCHES_PER_CLASS * len(names) + 2, _LEAST_INCHES), _MOST_INCHES)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="Blues")
    figure.colorbar(image, ax=axes, shrink=0.7)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_yticks(places, names)
    axes.set_xlabel("class of the answer")
    axes.set_ylabel("class of the row")
    half = max(max(line) for line in matrix) / 2
    if len(names) <= _MOST_NUMBERED:
        for y, line in enumerate(matrix):
            for x, count in enumerate(line):
                color = "white" if count > half else "black"
                axes.text(x, y, str(count), ha="center", va="center", color=color)
    file.parent.mkdir(parents=True, exist_ok=True)
    # The filters are the process's, and another stage may draw at the same time.
    with _FILTERS, warnings.catch_warnings():
        # A name in a script that no installed font has is drawn as boxes; the report has it whole.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(file, dpi=100)

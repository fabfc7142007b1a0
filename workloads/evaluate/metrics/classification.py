"""`classification`: precision, recall and F1 of the classes that answers name, by scikit-learn.

An answer's class is found in three steps: the class that the answer is; the one that its final
answer is (`workloads.rewards.final_answer`); the only one that it names. Case, the form of
characters, and punctuation around it make no difference. An answer that names none, or several, is
of no class, which is wrong for every row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from workloads.evaluate.metrics import Measured, Row, Settings
from workloads.evaluate.metrics.exact_match import normalized
from workloads.rewards.final_answer import final_answer

NAMES = ("class_accuracy", "precision", "recall", "f1", "f1_weighted")

NO_CLASS = "(none)"
"""Where answers are counted that name no class, or several."""

_AROUND = " \t.,;:!?\"'`*()[]<>。，、；：！？「」“”‘’"


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """The class that a text names."""
    known, pattern = _known(tuple(labels))
    for part in (text, final_answer(text)):
        if label := known.get(_bare(part)):
            return label
    found = {known[match[0]] for match in pattern.finditer(normalized(text))}
    return found.pop() if len(found) == 1 else None


def _bare(text: str) -> str:
    return normalized(text).strip(_AROUND)


@lru_cache(maxsize=4)
def _known(labels: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    """The labels by how they are written, and a pattern that finds them, the longest first."""
    known = {normalized(label): label for label in labels}
    # Chinese has nothing between words, so a label is delimited where it ends in other letters.
    parts = [
        rf"{_edge(label[0], '(?<!')}{re.escape(label)}{_edge(label[-1], '(?!')}"
        for label in sorted(known, key=len, reverse=True)
    ]
    bare = {_bare(label): original for label, original in known.items()}
    return bare | known, re.compile("|".join(parts))


def _edge(character: str, look: str) -> str:
    return rf"{look}[a-z0-9_])" if re.match(r"[a-z0-9_]", character) else ""


class Classification:
    """Counts pairs of a row's class and its answer's."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = tuple(dict.fromkeys(labels))
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._unknown = 0

    def add(self, row: Row) -> dict[str, Any]:
        """See `Metric`."""
        if row.label is None:
            return {}
        right = read_label(row.label, self._labels)
        if right is None:
            self._unknown += 1
            return {}
        found = read_label(row.predict, self._labels) or NO_CLASS
        self._pairs[right, found] += 1
        return {"class": found, "class_accuracy": float(found == right)}

    def measured(self) -> Measured:
        """See `Metric`."""
        if not self._pairs:
            return Measured({}, {"classification": {"rows_of_no_label": self._unknown}})
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

        pairs, counts = list(self._pairs), list(self._pairs.values())
        right, found = zip(*pairs, strict=True)
        options: dict[str, Any] = {
            "labels": list(self._labels), "sample_weight": counts, "zero_division": 0.0,
        }  # fmt: skip
        precision, recall, f1, _ = precision_recall_fscore_support(
            right, found, average="macro", **options
        )
        weighted = precision_recall_fscore_support(right, found, average="weighted", **options)
        each = precision_recall_fscore_support(right, found, **options)
        names = [*self._labels, NO_CLASS]
        matrix = confusion_matrix(right, found, labels=names, sample_weight=counts)
        values = {
            "class_accuracy": sum(self._pairs[name, name] for name in names) / sum(counts),
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "f1_weighted": float(weighted[2]),
        }
        details = {
            "labels": names,
            "confusion_matrix": [[int(count) for count in line] for line in matrix],
            "classes": {
                label: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
                for label, p, r, f, n in zip(self._labels, *each, strict=True)
            },
            "rows_of_no_label": self._unknown,
        }
        return Measured(values, {"classification": details})


def metric(settings: Settings) -> Classification:
    """The metric."""
    return Classification(settings.labels)

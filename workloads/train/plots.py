"""Pictures of a run's curves."""

from __future__ import annotations

import json
from pathlib import Path

PLOTS = {
    "loss": ("loss", "eval_loss"),
    "learning_rate": ("learning_rate",),
    "grad_norm": ("grad_norm",),
    "token_acc": ("token_acc", "eval_token_acc"),
    "reward": ("reward", "reward_std"),
    "kl": ("kl",),
    "entropy": ("entropy",),
    "completion_length": (
        "completions/mean_length",
        "completions/min_length",
        "completions/max_length",
    ),
    "clip_ratio": ("clip_ratio/low_mean", "clip_ratio/high_mean", "completions/clipped_ratio"),
}
"""Pictures by name, each with the fields of `logging.jsonl` that it shows, where there are any."""

_NOISY = ("loss", "reward")
"""Fields that are drawn smoothed as well."""

_SMOOTHING = 0.9


def draw(logging_jsonl: Path, folder: Path) -> None:
    """Draws each of `PLOTS` as a PNG in `folder`, from the records of training."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in logging_jsonl.read_text().splitlines()]
    folder.mkdir(parents=True, exist_ok=True)
    for name, fields in PLOTS.items():
        if not any(field in record for record in records for field in fields):
            continue
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for field in fields:
            points = [(r["global_step"], r[field]) for r in records if field in r]
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, label=field, alpha=0.5 if field in _NOISY else 1.0)
                if field in _NOISY:
                    axes.plot(steps, smooth(values), label=f"{field}, smoothed")
        axes.set_xlabel("step")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
        figure.savefig(folder / f"{name}.png", dpi=100)


def smooth(values: tuple[float, ...]) -> list[float]:
    """The exponential moving average, without a bias towards the first value."""
    smoothed, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        smoothed.append(mean / (1 - _SMOOTHING**count))
    return smoothed

"""The pictures of a run's curves."""

import json
from pathlib import Path

import pytest

from workloads.train.plots import PLOTS, draw, smooth


def _draw(folder: Path, records: list[dict[str, float]]) -> dict[str, bytes]:
    folder.mkdir()
    log = folder / "logging.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    draw(log, folder / "images")
    return {path.stem: path.read_bytes() for path in (folder / "images").iterdir()}


def test_each_curve_has_a_picture_that_shows_it(tmp_path: Path) -> None:
    names = [name for names in PLOTS.values() for name in names if not name.startswith("eval_")]
    steps = [{"global_step": n, **dict.fromkeys(names, 1 / n)} for n in range(1, 8)]
    records = [*steps, {"global_step": 7, "eval_loss": 0.5, "eval_token_acc": 0.7}]
    pictures = _draw(tmp_path / "run", records)
    assert pictures.keys() == PLOTS.keys()
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    other = _draw(tmp_path / "other", [{"global_step": 1, **dict.fromkeys(names, 0.0)}])
    assert all(other[name] != pictures[name] for name in PLOTS)


def test_a_curve_without_points_has_no_picture(tmp_path: Path) -> None:
    assert _draw(tmp_path / "run", [{"global_step": 1, "kl": 0.1}]).keys() == {"kl"}


def test_a_loss_that_is_no_number_does_not_break_the_picture(tmp_path: Path) -> None:
    records = [{"global_step": n, "loss": float("nan")} for n in (1, 2)]
    assert _draw(tmp_path / "run", records).keys() == {"loss"}


def test_smoothing_has_no_bias_towards_the_first_value() -> None:
    assert smooth((2.0, 2.0, 2.0)) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth((0.0, 1.0)) == pytest.approx([0.0, 0.1 / 0.19])

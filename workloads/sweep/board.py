"""A trial's values in TensorBoard, whose HPARAMS tab compares trials by them.

`tensorboard --logdir` on a sweep's `trials` folder shows all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


def write_hparams(folder: Path, values: Mapping[str, Any], metric: str, value: float) -> None:
    """Adds what a trial was given, and what it came to, to a folder of event files."""
    given = {
        path: each if isinstance(each, bool | int | float | str) else json.dumps(each)
        for path, each in values.items()
    }
    tag = f"hparam/{metric}"
    with SummaryWriter(str(folder)) as board:
        for summary in hparams(given, {tag: value}):
            board.file_writer.add_summary(summary)
        board.add_scalar(tag, value)

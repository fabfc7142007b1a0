"""The process that drives Ray: the settings it needs, and where what Ray says goes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRAVELLING = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # On a busy machine an answer within the usual 0.1 s is too much to ask of a replica.
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # It would print everything twice into a worker's log.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
"""What is the same on every machine."""

ENVIRONMENT = {
    **TRAVELLING,
    "RAY_DATA_LOGGING_CONFIG": str(Path(__file__).with_name("ray_data_logging.yaml")),
}
"""Ray reads these when it is imported, not when it starts."""


def route_logs() -> None:
    """Sends what Ray says to the stage's log, not between the lines that a person watches.

    Needs a connected Ray.
    """
    logger = logging.getLogger("ray")
    logger.handlers.clear()
    logger.propagate = True
    import ray

    # What its daemon says goes straight to the terminal, and Ray 2.60 has no setting for that.
    ray._private.worker.print_to_stdstream = _log


def _log(data: Mapping[str, Any], ignore_prefix: bool) -> None:  # noqa: ARG001 - as Ray calls it
    logging.getLogger("ray").info("%s: %s", data["pid"], " ".join(data["lines"]))

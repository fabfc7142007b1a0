"""The process that drives Ray: the settings it needs, and where what Ray says goes."""

from __future__ import annotations

import logging
from pathlib import Path

ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOGGING_CONFIG": str(Path(__file__).with_name("ray_data_logging.yaml")),
    # On a busy machine an answer within the usual 0.1 s is too much to ask of a replica.
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",
}
"""Ray reads these when it is imported, not when it starts."""


def route_logs() -> None:
    """Sends what Ray says to the stage's log, not between the lines that a person watches."""
    logger = logging.getLogger("ray")
    logger.handlers.clear()
    logger.propagate = True

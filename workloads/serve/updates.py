"""Requests to serve another model, as files that the serve stage looks for.

Who asks writes `<id>.request.json` and waits for `<id>.outcome.json`; both are written whole.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.durable import write_atomic

_REQUEST, _OUTCOME = ".request.json", ".outcome.json"


@dataclass(frozen=True)
class Update:
    """A wish to serve another model."""

    id: str
    model: str
    """A bundled name, a hub id, or a folder's absolute path."""


@dataclass(frozen=True)
class Outcome:
    """What came of an update."""

    done: bool
    message: str
    """Why not, or what is served now."""


def ask_for(folder: Path, model: str) -> Update:
    """Leaves a request in a stage's folder of updates."""
    folder.mkdir(parents=True, exist_ok=True)
    update = Update(secrets.token_hex(6), model)
    write_atomic(folder / f"{update.id}{_REQUEST}", json.dumps(asdict(update)).encode())
    return update


def next_request(folder: Path) -> Update | None:
    """The oldest request without an outcome."""
    requests = sorted(folder.glob(f"*{_REQUEST}"), key=lambda path: path.stat().st_mtime_ns)
    for path in requests:
        if not path.with_name(path.name.replace(_REQUEST, _OUTCOME)).exists():
            return Update(**json.loads(path.read_text(encoding="utf-8")))
    return None


def answer(folder: Path, update: Update, outcome: Outcome) -> None:
    """Says what came of a request."""
    write_atomic(folder / f"{update.id}{_OUTCOME}", json.dumps(asdict(outcome)).encode())


def outcome_of(folder: Path, update: Update) -> Outcome | None:
    """What came of a request; None while it is worked on."""
    path = folder / f"{update.id}{_OUTCOME}"
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

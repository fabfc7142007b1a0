"""Addresses, and runs that serve, do not serve yet, or no longer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.chat.address import find_address
from jobs.errors import UserError
from jobs.observed import Driver, RunStatus, StageStatus
from jobs.state import RunState, StageState
from storage.layout import Layout, RunLayout


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("https://api.example.org/paas/v4", "https://api.example.org/paas/v4"),
        ("https://example.org/v1beta/openai/", "https://example.org/v1beta/openai"),
        ("https://example.org/proxy", "https://example.org/proxy/v1"),
        ("localhost:8000", "http://localhost:8000/v1"),
        ("[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_taken_up_to_its_version(text: str, url: str, tmp_path: Path) -> None:
    assert find_address(text, Layout(tmp_path)) == url


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a", "http://", "http://a:99999", "http://a/?k=1", "http://a/#f", "http://me:pw@a/v1",
        "http://[1/", "localhost:99999",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_address(text, Layout(tmp_path))
    assert caught.value.remedy
    assert "pw" not in str(caught.value)


def _run(root: Path, *stages: StageStatus, live: bool = True) -> RunLayout:
    run = Layout(root).run("bot", "20261122-100000-abcdef")
    run.folder.mkdir(parents=True)
    run.spec.write_text("")
    status = RunStatus(
        run_id=run.folder.name,
        name="bot",
        state=RunState.RUNNING if live else RunState.STOPPED,
        digest="d",
        stages=stages,
        created_at="2026-11-22T10:00:00.000Z",
        updated_at="2026-11-22T10:00:00.000Z",
        driver=Driver.here(),
    )
    run.status.write_text(status.model_dump_json())
    return run


MERGE = StageStatus(name="merged", kind="merge", state=StageState.SUCCEEDED)
SERVE = StageStatus(name="api", kind="serve", state=StageState.RUNNING, attempt=2)


def test_a_run_is_asked_where_it_serves(tmp_path: Path) -> None:
    run = _run(tmp_path, MERGE, SERVE)
    file = run.stage("api").attempt(2).service_json
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"url": "http://127.0.0.1:8123", "models": ["bot"], "new": 1}))
    for text in ("", "bot", run.folder.name, f"bot/{run.folder.name}", str(run.folder)):
        assert find_address(text, Layout(tmp_path)) == "http://127.0.0.1:8123/v1"


def test_a_run_that_is_starting_says_to_wait(tmp_path: Path) -> None:
    _run(tmp_path, MERGE, SERVE)
    with pytest.raises(UserError, match="does not serve yet"):
        find_address("bot", Layout(tmp_path))


def test_a_run_that_ended_no_longer_serves(tmp_path: Path) -> None:
    run = _run(tmp_path, MERGE, SERVE, live=False)
    file = run.stage("api").attempt(2).service_json
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"url": "http://127.0.0.1:8123"}))
    with pytest.raises(UserError, match="no longer serves"):
        find_address("bot", Layout(tmp_path))


def test_a_run_without_a_service_says_how_to_serve(tmp_path: Path) -> None:
    _run(tmp_path, MERGE)
    with pytest.raises(UserError) as caught:
        find_address("bot", Layout(tmp_path))
    assert 'serve: {kind: serve, model: "${stages.merged.model}"}' in str(caught.value)


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run 'other'"):
        find_address("other", Layout(tmp_path))

"""Pushing to the hub, by a process of its own, which reads where the hub is when it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.commit import begin, commit
from storage.manifest import Owner
from tests.integration.hub_server import TOKEN, Hub, hub_server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

OWNER = Owner("run", "export", "key", 1)
PUSH = """
import json, sys
from pathlib import Path
from jobs.errors import UserError
from jobs.spec.export import PushSpec
from workloads.export.push import push
try:
    found = push(Path(sys.argv[1]), PushSpec(**json.loads(sys.argv[2])), "run x, stage export")
except (UserError, ConnectionError) as error:
    found = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(found))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub of this machine's own."""
    with hub_server() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A committed folder."""
    folder = tmp_path / "artifact"
    begin(folder, OWNER)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# a card\n")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    commit(folder, OWNER, {"type": "export"})
    return folder


def push(hub: Hub, folder: Path, home: Path, token: str = TOKEN, **fields: Any) -> dict[str, Any]:
    """What a push in a process of its own comes to."""
    spec = {"to": "hf://org/tiny", "token": "${secret:PUSH_TOKEN}", **fields}
    settings = {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "PUSH_TOKEN": token,
    }
    done = subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), json.dumps(spec)],
        env=os.environ | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_folder_is_pushed_once_and_changes_after(hub: Hub, folder: Path, tmp_path: Path) -> None:
    first = push(hub, folder, tmp_path)
    assert "error" not in first, first
    assert (first["sent"], first["replaced"], first["unchanged"]) == (3, 0, 0), first
    assert first["url"] == f"{hub.address}/org/tiny"
    assert hub.private == {"org/tiny": True}
    assert hub.commits == ["run x, stage export"]
    # The commit protocol's own files stay here.
    names = ("README.md", "config.json", "model.safetensors")
    assert hub.files["org/tiny"] == {name: (folder / name).read_bytes() for name in names}

    again = push(hub, folder, tmp_path)
    assert (again["sent"], again["unchanged"]) == (0, 3)
    assert hub.uploads == 1

    (folder / "config.json").write_text('{"a": 1}')
    commit(folder, OWNER, {"type": "export"})
    changed = push(hub, folder, tmp_path, revision="next")
    assert (changed["sent"], changed["replaced"], changed["unchanged"]) == (1, 1, 2)
    assert hub.branches == ["next"]
    assert hub.uploads == 1


def test_a_wrong_token_is_the_user_s_to_mend(hub: Hub, folder: Path, tmp_path: Path) -> None:
    found = push(hub, folder, tmp_path, token="wrong-token")
    assert found["error"] == "UserError"
    assert "HTTP 401" in found["message"]
    assert "wrong-token" not in found["message"]
    found = push(hub, folder, tmp_path, token="")
    assert found["error"] == "UserError"
    assert "PUSH_TOKEN" in found["message"]
    assert hub.files == {}


def test_a_hub_that_breaks_is_tried_again(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.fail = 100
    assert push(hub, folder, tmp_path)["error"] == "ConnectionError"
    hub.fail = 0
    assert push(hub, folder, tmp_path)["sent"] == 3
    assert hub.uploads == 1  # the weights had arrived before the commit broke

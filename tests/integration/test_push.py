"""Pushing to servers that speak the real protocols, on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import UserError
from jobs.spec.export import PushSpec
from storage.commit import begin, commit
from storage.manifest import Owner
from workloads.export.push import push

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-1"}


@pytest.fixture
def client(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of it, with an empty bucket. Its servers in one process share their buckets."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": s3_server}).items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="pushed", CreateBucketConfiguration={"LocationConstraint": "eu-1"})
    yield client
    for entry in client.list_objects_v2(Bucket="pushed").get("Contents", ()):
        client.delete_object(Bucket="pushed", Key=entry["Key"])
    client.delete_bucket(Bucket="pushed")


def committed(folder: Path, attempt: int = 1, card: str = "a card") -> Path:
    """A committed folder with a small file, and one that takes several parts."""
    owner = Owner("run", "export", "key", attempt)
    begin(folder, owner)
    (folder / "README.md").write_text(card)
    (folder / "nested").mkdir()
    (folder / "nested" / "model.safetensors").write_bytes(os.urandom(1024) * 40 * 1024)
    commit(folder, owner, {"type": "export"})
    return folder


def keys(client: Any) -> dict[str, int]:
    """The objects in the bucket and their sizes."""
    found = client.list_objects_v2(Bucket="pushed").get("Contents", ())
    return {entry["Key"]: entry["Size"] for entry in found}


def test_a_folder_is_pushed_once(client: Any, tmp_path: Path) -> None:
    folder = committed(tmp_path / "artifact")
    spec = PushSpec(to="s3://pushed/org/tiny")
    first = push(folder, spec, "message")
    assert (first["sent"], first["replaced"], first["unchanged"]) == (2, 0, 0)
    assert keys(client) == {
        "org/tiny/README.md": 6,
        "org/tiny/nested/model.safetensors": 40 * 2**20,
        "org/tiny/_COMMITTED.json": (folder / "_COMMITTED.json").stat().st_size,
    }
    head = client.head_object(Bucket="pushed", Key="org/tiny/nested/model.safetensors")
    assert head["ETag"].strip('"').endswith("-3")  # it came in three parts
    again = push(folder, spec, "message")
    assert (again["sent"], again["replaced"], again["unchanged"]) == (0, 0, 2)
    client.delete_object(Bucket="pushed", Key="org/tiny/README.md")
    mended = push(folder, spec, "message")
    assert (mended["sent"], mended["unchanged"]) == (1, 1)


def test_what_has_changed_is_replaced_and_told(client: Any, tmp_path: Path) -> None:
    spec = PushSpec(to="s3://pushed")
    folder = committed(tmp_path / "artifact")
    push(folder, spec, "message")
    owner = Owner("run", "export", "key", 1)
    (folder / "README.md").write_text("another card")
    commit(folder, owner, {"type": "export"})
    found = push(folder, spec, "message")
    assert (found["sent"], found["replaced"], found["unchanged"]) == (1, 1, 1)
    marker = json.loads(client.get_object(Bucket="pushed", Key="_COMMITTED.json")["Body"].read())
    assert marker == json.loads((folder / "_COMMITTED.json").read_text())


def test_others_files_are_left_alone(client: Any, tmp_path: Path) -> None:
    client.put_object(Bucket="pushed", Key="here/theirs.txt", Body=b"x")
    client.put_object(Bucket="pushed", Key="hereabouts.txt", Body=b"x")
    with pytest.raises(UserError, match=r"holds 1 other files, such as theirs\.txt"):
        push(committed(tmp_path / "artifact"), PushSpec(to="s3://pushed/here"), "message")
    assert keys(client) == {"here/theirs.txt": 1, "hereabouts.txt": 1}


def test_refusals_are_the_user_s_and_lost_servers_are_not(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = committed(tmp_path / "artifact")
    with pytest.raises(UserError, match="NoSuchBucket"):
        push(folder, PushSpec(to="s3://nowhere/x"), "message")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="pushing to s3://pushed/x failed"):
        push(folder, PushSpec(to="s3://pushed/x"), "message")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="nothing to push to s3://pushed/x with"):
        push(folder, PushSpec(to="s3://pushed/x"), "message")
    assert keys(client) == {}

"""The JSON of the commit protocol, as we and our past selves wrote it."""

import json

import pytest

from storage.manifest import (
    FileEntry,
    Manifest,
    Owner,
    manifest_from_json,
    manifest_to_json,
    owner_from_json,
    owner_to_json,
)

OWNER = Owner("r1", "sft", "key", 1)
MANIFEST = Manifest(OWNER, (FileEntry("a/b.bin", 3, "00"), FileEntry("c", 4, "11")), {"step": 50})


def test_values_survive_the_json() -> None:
    assert owner_from_json(owner_to_json(OWNER)) == OWNER
    assert manifest_from_json(manifest_to_json(MANIFEST)) == MANIFEST
    assert MANIFEST.size_bytes == 7


def test_unknown_keys_pass_and_newer_formats_do_not() -> None:
    tree = json.loads(manifest_to_json(MANIFEST))
    assert manifest_from_json(json.dumps({**tree, "colour": "red"}).encode()) == MANIFEST
    with pytest.raises(ValueError, match="format 2"):
        manifest_from_json(json.dumps({**tree, "format": 2}).encode())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ""])
def test_a_manifest_names_nothing_outside_its_folder(name: str) -> None:
    forged = Manifest(OWNER, (FileEntry(name, 1, "00"),), {})
    with pytest.raises(ValueError, match="inside the folder"):
        manifest_from_json(manifest_to_json(forged))


def test_the_digest_follows_the_content_alone() -> None:
    again = Manifest(Owner("r2", "sft", "key", 3), MANIFEST.files, {})
    renamed = Manifest(OWNER, (FileEntry("a/b", 3, "00"), MANIFEST.files[1]), {})
    assert again.digest == MANIFEST.digest != renamed.digest

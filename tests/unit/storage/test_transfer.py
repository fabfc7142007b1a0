"""Folders to and from storage."""

from pathlib import Path

import pytest

from jobs.errors import StorageError, StorageRefused, UserError
from storage.backend import MissingKey
from storage.manifest import FileEntry
from storage.memory import MemoryBackend
from storage.transfer import download_folder, upload_folder


def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    backend = MemoryBackend("x")
    backend.write_bytes("run/a", b"1")
    with pytest.raises(UserError, match="leads outside"):
        upload_folder(backend, "run/", tmp_path, ["../a"])
    with pytest.raises(UserError, match="leads outside"):
        download_folder(backend, "run/", tmp_path, [FileEntry("../a", 1, "")])


def test_a_missing_file_stops_an_upload(tmp_path: Path) -> None:
    with pytest.raises(StorageRefused, match="no such file"):
        upload_folder(MemoryBackend("x"), "run/", tmp_path, ["none"])


def test_a_missing_or_shorter_object_stops_a_download(tmp_path: Path) -> None:
    backend = MemoryBackend("x")
    backend.write_bytes("run/a", b"1")
    with pytest.raises(StorageError, match="1 bytes, 2 were stored"):
        download_folder(backend, "run/", tmp_path, [FileEntry("a", 2, "")])
    with pytest.raises(MissingKey, match="run/b"):
        download_folder(backend, "run/", tmp_path, [FileEntry("b", 2, "")])

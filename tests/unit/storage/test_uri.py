"""Storage roots as users write them."""

from pathlib import Path

import pytest

from jobs.errors import UserError
from storage.uri import StorageUri, parse_uri


def test_plain_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert parse_uri("./runs") == StorageUri("file", str(tmp_path.resolve() / "runs"))
    assert parse_uri("~/.x").path == "/home/ada/.x"
    assert parse_uri("/mnt/shared").local_path == Path("/mnt/shared")


def test_an_absolute_link_is_kept_as_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert parse_uri(str(tmp_path / "link")).path == str(tmp_path / "link")


@pytest.mark.parametrize("text", ["file:///a%20b", "file:/a%20b", "FILE://localhost/a%20b", "/a b"])
def test_file_uris_are_decoded(text: str) -> None:
    assert parse_uri(text) == StorageUri("file", "/a b")


@pytest.mark.parametrize("text", ["/a b/c", "memory://x"])
def test_the_text_of_a_uri_parses_to_the_same(text: str) -> None:
    assert parse_uri(str(parse_uri(text))) == parse_uri(text)


def test_memory_is_not_on_disk() -> None:
    uri = parse_uri("memory://x")
    assert uri == StorageUri("memory", "x")
    assert uri.local_path is None


@pytest.mark.parametrize("text", ["s3://bucket/runs", "gs://bucket", "s3:/bucket"])
def test_an_unknown_scheme_names_the_known_ones(text: str) -> None:
    with pytest.raises(UserError, match="file://, memory://") as caught:
        parse_uri(text)
    assert "mounted" in (caught.value.remedy or "")


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "file://host/a", "file://runs", "memory://"])
def test_malformed_uris_are_user_errors(text: str) -> None:
    with pytest.raises(UserError):
        parse_uri(text)

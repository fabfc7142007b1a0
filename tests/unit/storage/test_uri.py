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


@pytest.mark.parametrize(
    "text",
    [
        "/a b/c",
        "memory://x",
        "s3://bucket",
        "s3://bucket/a b/c%20d",
        "s3://bucket/a?endpoint=http://127.0.0.1:9000&region=eu-central-1&addressing=path",
    ],
)
def test_the_text_of_a_uri_parses_to_the_same(text: str) -> None:
    assert parse_uri(str(parse_uri(text))) == parse_uri(text)


def test_memory_is_not_on_disk() -> None:
    uri = parse_uri("memory://x")
    assert uri == StorageUri("memory", "x")
    assert uri.local_path is None


@pytest.mark.parametrize("text", ["gs://bucket", "gs:/bucket"])
def test_an_unknown_scheme_names_the_known_ones(text: str) -> None:
    with pytest.raises(UserError, match="file://, memory://, s3://") as caught:
        parse_uri(text)
    assert "mounted" in (caught.value.remedy or "")


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "file://host/a", "file://runs", "memory://"])
def test_malformed_uris_are_user_errors(text: str) -> None:
    with pytest.raises(UserError):
        parse_uri(text)


def test_an_s3_root_carries_its_settings() -> None:
    uri = parse_uri(
        "S3://my-bucket/some/runs/?endpoint=https%3A%2F%2Fs3.example%2F&addressing=path"
    )
    assert uri == StorageUri(
        "s3", "my-bucket/some/runs", endpoint="https://s3.example", addressing="path"
    )
    assert str(uri) == "s3://my-bucket/some/runs?endpoint=https://s3.example&addressing=path"
    assert uri.local_path is None


SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("s3://", "names no bucket"),
        ("s3:///runs", "names no bucket"),
        ("s3:/bucket", "one slash"),
        ("s3://bucket//a", "no plain path"),
        ("s3://bucket/../a", "no plain path"),
        (f"s3://AKIA:{SECRET}@bucket/runs", "credentials"),
        (f"s3://bucket/runs?aws_secret_access_key={SECRET}", "setting 'aws_secret_access_key'"),
        (f"s3://bucket/runs?{SECRET}", "a setting that is not shown"),
        (f"s3://bucket/runs?endpoint=https://me:{SECRET}@host", "no plain address"),
        (f"s3://bucket/runs?endpoint=https://host/?X-Amz-Signature={SECRET}", "no plain address"),
        ("s3://bucket/runs?endpoint=host:9000", "no plain address"),
        ("s3://bucket/runs?endpoint=http://host:port", "no plain address"),
        ("s3://bucket/runs?region=a b", "region"),
        ("s3://bucket/runs?region=a&region=b", "twice"),
        ("s3://bucket/runs?addressing=both", "path and virtual"),
        (f"gs://me:{SECRET}@bucket", "no backend"),
        (f"file://me:{SECRET}@host/a", "host"),
    ],
)
def test_a_bad_root_is_told_without_its_secrets(text: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        parse_uri(text)
    assert SECRET not in str(caught.value)
    assert caught.value.remedy

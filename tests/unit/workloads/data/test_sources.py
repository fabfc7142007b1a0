"""Which files a source's path stands for, and what is said where there are none."""

from pathlib import Path

import pytest

from jobs.errors import UserError
from workloads.data.sources import chunk_files, find_files


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    for name in ("spec/a.jsonl", "spec/B.JSONL", "spec/notes.txt", "cwd/a.jsonl", "cwd/c.csv"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"query": "a", "response": "b"}\n')
    return str(tmp_path / "spec"), str(tmp_path / "cwd")


def test_a_file_beside_the_spec_wins(folders: tuple[str, str]) -> None:
    assert find_files("a.jsonl", folders) == [f"{folders[0]}/a.jsonl"]
    assert find_files("c.csv", folders) == [f"{folders[1]}/c.csv"]
    assert find_files(f"{folders[1]}/a.jsonl", folders) == [f"{folders[1]}/a.jsonl"]


def test_folders_and_patterns_are_all_files_of_a_known_type(folders: tuple[str, str]) -> None:
    both = [f"{folders[0]}/B.JSONL", f"{folders[0]}/a.jsonl"]
    assert find_files(".", folders) == both
    assert find_files("*", folders) == both
    assert find_files("[Aa].jsonl", folders) == both[1:]


def test_a_home_folder_is_filled_in(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", folders[1])
    assert find_files("~/c.csv", folders[:1]) == [f"{folders[1]}/c.csv"]


@pytest.mark.parametrize(("name", "rows"), [("self-cognition", 104), ("arithmetic", 1000)])
def test_the_bundled_datasets_are_there(name: str, rows: int) -> None:
    (chunk,) = chunk_files(find_files(name, ()))
    assert chunk.rows == rows


@pytest.mark.parametrize(
    ("path", "message", "remedy"),
    [
        ("a.jsnl", "no dataset at 'a.jsnl'", "did you mean 'a.jsonl'"),
        ("self-cogniton", "no dataset at", "did you mean 'self-cognition'"),
        ("s3://bucket/a.jsonl", "not on a local or mounted disk", "download it"),
        ("notes.txt", "of no known type", "known are .jsonl, .json, .csv, .parquet"),
        ("~nobody-of-this-name/a.jsonl", "no dataset at", "looked at"),
    ],
)
def test_what_is_not_there_is_told_with_what_is_near(
    folders: tuple[str, str], path: str, message: str, remedy: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find_files(path, folders)
    assert remedy in (caught.value.remedy or "")

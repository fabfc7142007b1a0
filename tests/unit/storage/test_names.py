"""Names, and paths that stay inside their root."""

from pathlib import Path

import pytest

from jobs.errors import UserError
from storage.names import check_name, contained


@pytest.mark.parametrize("name", ["a", "0", "support-bot", "sft_2.b", "a" * 63, "a..b"])
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", "A", "a/b", "a b", "a\n", "é", "a" * 64]
)
def test_bad_names_say_what_was_meant(name: str) -> None:
    with pytest.raises(UserError, match="not a valid stage name"):
        check_name(name, "stage name")


@pytest.mark.parametrize("part", ["..", "a/../b", "/etc", "out", "out/file"])
def test_paths_stay_inside_the_root(tmp_path: Path, part: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leads outside"):
        contained(root, part)


def test_a_linked_root_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    assert contained(tmp_path / "root", "a", "b") == tmp_path / "root" / "a" / "b"

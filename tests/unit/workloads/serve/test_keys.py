"""Keys are known by digest alone, and can be revoked while the service runs."""

import hashlib
import os
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.spec.serve import AuthSpec
from workloads.serve.keys import Keys, open_keys, read_digests


def line(key: str, label: str = "") -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()}  {label}\n"


def write(file: Path, text: str) -> None:
    """Writes as an editor does, at a later time than before."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_text(text)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_one_key_opens() -> None:
    keys = Keys("right")
    assert keys.open_with("right")
    assert not any(map(keys.open_with, ("", "wrong", "Right", "right ", "right\0", "\udcff")))


def test_keys_are_added_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, f"# who may ask\n\n{line('a', 'Ada')}{line('b')}")
    keys = Keys("fixed", file)
    assert all(map(keys.open_with, ("fixed", "a", "b")))
    write(file, line("c") + line("b"))
    assert not keys.open_with("a")
    assert all(map(keys.open_with, ("fixed", "b", "c")))
    file.unlink()
    assert not keys.open_with("b")
    assert keys.open_with("fixed")


def test_a_slip_in_the_file_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, line("a"))
    keys = Keys(file=file)
    write(file, "a\n" + line("a"))
    assert not keys.open_with("a")
    write(file, line("a"))
    assert keys.open_with("a")


def test_a_bad_file_is_an_error_that_shows_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line("a") + "my-secret-key\n")
    with pytest.raises(UserError, match=":2: ") as caught:
        read_digests(file)
    assert "my-secret-key" not in str(caught.value)
    with pytest.raises(UserError, match="can't be read"):
        read_digests(tmp_path / "absent")


def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line("a"))
    auth = AuthSpec(api_key="${secret:KEY}", api_keys_file="./keys")
    keys = open_keys(auth, (str(tmp_path),), {"KEY": "fixed\n"})
    assert keys
    assert all(map(keys.open_with, ("fixed", "a")))
    assert open_keys(None, (), {}) is None
    for environ in ({}, {"KEY": " "}):
        with pytest.raises(UserError, match="is not set"):
            open_keys(auth, (str(tmp_path),), environ)


def test_a_secret_that_kubernetes_changes_is_read_again(tmp_path: Path) -> None:
    """It is a link through a link to a folder, which gives way to another one."""
    for number, key in enumerate("ab"):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number) / "keys", line(key))
        os.utime(tmp_path / str(number) / "keys", ns=(number, number))
    (tmp_path / "data").symlink_to("0")
    (tmp_path / "keys").symlink_to("data/keys")
    keys = open_keys(AuthSpec(api_keys_file=str(tmp_path / "keys")), ("/",), {})
    assert keys
    assert keys.open_with("a")
    (tmp_path / "data").unlink()
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "0" / "keys").unlink()
    assert keys.open_with("b")
    assert not keys.open_with("a")

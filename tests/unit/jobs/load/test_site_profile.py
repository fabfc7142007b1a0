"""Profiles: found by name, read with their places, and refused in words."""

from pathlib import Path

import pytest

from jobs.errors import SpecError, UserError
from jobs.load.site_profile import LoadedProfile, load_profile

WHOLE = """version: 1
address: http://head:8265
storage: ${env:RUNS}
env: [HF_HOME]
stop_grace: 90s
policy: {max_workers: 8, max_gpus: 4, allow_user_code: false, deadline: 24h}
"""


def loaded(folder: Path, text: str) -> LoadedProfile:
    file = folder / "site.yaml"
    file.write_text(text)
    return load_profile(str(file), {"RUNS": "/mnt/runs"})


def test_a_profile_is_read_with_its_environment_and_its_places(tmp_path: Path) -> None:
    profile = loaded(tmp_path, WHOLE)
    assert profile.spec.storage == "/mnt/runs"
    assert profile.environment == {"RUNS": "/mnt/runs"}
    assert profile.spec.policy.deadline == "24h"
    assert profile.place("policy.max_gpus") == f"{tmp_path / 'site.yaml'}:6"


def test_a_name_is_looked_for_in_the_users_folder(tmp_path: Path) -> None:
    folder = tmp_path / "raysmith" / "profiles"
    folder.mkdir(parents=True)
    (folder / "lab.yaml").write_text("version: 1\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load_profile("lab", environ).path == folder / "lab.yaml"
    with pytest.raises(UserError, match=r"no profile 'prod'.*\n.*lab"):
        load_profile("prod", environ)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adress: http://x:1", "2:1: adress: unknown key 'adress'\n  fix: did you mean 'address'?"),
        ("policy: {max_worker: 1}", "did you mean 'max_workers'?"),
        ("policy: {deadline: soon}", "'soon' is not a duration"),
        ("policy: {deadline: 0h}", "longer than nothing"),
        ("env: [HF_TOKEN]", "env HF_TOKEN looks like a secret"),
        ("env: [AWS_SECRET_ACCESS_KEY]", "set it on the cluster's nodes"),
        ("address: head:8265", "address"),
        ("address: http://user:pass@head:8265", "looks like a secret"),
        ("storage: ${env:NOWHERE}", "NOWHERE"),
        ("storage: hf_abcdefghijklmnopqrstuvwx", "looks like a secret"),
        ("kubernetes: {image: raysmith:latest}", "has no digest"),
        ("kubernetes: {}", "missing key 'image'"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        loaded(tmp_path, f"version: 1\n{text}\n")
    assert said in str(caught.value)
    assert f"{tmp_path / 'site.yaml'}:2:" in str(caught.value)

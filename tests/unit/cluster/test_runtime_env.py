"""What travels with a job, and what may not."""

from pathlib import Path

import pytest

from cluster.fingerprint import PACKAGES, fingerprint, folders, installed_fingerprint
from cluster.ray_jobs import entrypoint, run_folder
from cluster.runtime_env import refuse_names_of_ours, stays_here, submitted_env
from jobs.errors import UserError


def test_a_job_has_our_packages_the_users_folder_and_time_to_stop(tmp_path: Path) -> None:
    environment = submitted_env(tmp_path, ["/runs"], tmp_path / "sent", 90.5, {"HF_HOME": "/hub"})
    assert [Path(module).name for module in environment["py_modules"]] == [*PACKAGES, "sent"]
    assert environment["working_dir"] == str(tmp_path)
    assert environment["excludes"] == ["/runs"]
    variables = environment["env_vars"]
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == "91"
    assert variables["PYTHONSAFEPATH"] == "1"
    assert variables["HF_HOME"] == "/hub"


@pytest.mark.parametrize("name", ["storage.py", "jobs", "cluster.py", "workloads"])
def test_a_folder_with_a_module_named_like_ours_is_refused_by_name(
    tmp_path: Path, name: str
) -> None:
    place = tmp_path / name
    place.touch() if place.suffix else place.mkdir()
    with pytest.raises(UserError, match=str(place)):
        submitted_env(tmp_path, [], None, 1, {})


def test_our_own_checkout_may_be_the_folder_and_our_packages_travel_once() -> None:
    checkout = folders()[0].parent
    refuse_names_of_ours(checkout)
    assert set(stays_here(checkout, checkout / "runs")) >= {"/jobs", "/runs", ".git"}


def test_storage_outside_of_the_folder_excludes_nothing(tmp_path: Path) -> None:
    assert stays_here(tmp_path, Path("/mnt/runs")) == [".git", ".venv", "__pycache__"]


def test_a_fingerprint_follows_the_code_and_nothing_else(tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "jobs" / "controller.py").write_text("one")
    packages = folders([str(tmp_path)])
    assert [folder.name for folder in packages] == list(PACKAGES)
    fingerprint.cache_clear()
    before = fingerprint(packages)
    (tmp_path / "jobs" / "__pycache__").mkdir()
    (tmp_path / "jobs" / "__pycache__" / "controller.py").write_text("compiled")
    fingerprint.cache_clear()
    assert fingerprint(packages) == before
    (tmp_path / "jobs" / "controller.py").write_text("two")
    fingerprint.cache_clear()
    assert fingerprint(packages) != before


def test_packages_of_others_that_are_called_like_ours_are_not_ours(tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert folders([str(tmp_path)]) == ()


def test_what_was_shipped_is_not_taken_for_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "runtime_resources" / "py_modules_files"
    for name in PACKAGES:
        (shipped / name).mkdir(parents=True)
        (shipped / name / "__init__.py").touch()
    (shipped / "jobs" / "controller.py").touch()
    monkeypatch.setattr("sys.path", [str(shipped)])
    assert installed_fingerprint() is None


def test_the_run_that_a_driver_is_at_is_read_from_what_it_says() -> None:
    log = "note\nrun support.bot/20261123-1 in /mnt/my runs/support.bot/20261123-1\n[sft] running\n"
    assert run_folder(log) == "/mnt/my runs/support.bot/20261123-1"
    assert run_folder("[sft] running") is None


def test_a_job_runs_in_the_python_of_its_cluster() -> None:
    command = entrypoint("jobs.cli", "drive")
    assert command.endswith('exec "${python:-python}" -m jobs.cli drive')

"""What a profile's policy refuses, before anything starts."""

from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.load.site_profile import load_profile
from jobs.plan.policy import check_policy
from jobs.plan.resolve import Plan, resolve

JOB = """version: 1
name: policed
stages:
  grpo:
    kind: grpo
    model: ./model
    dataset: {train: [arithmetic]}
    rewards:
      - {import_path: "mine:reward"}
    rollout: {actors: 2, gpus_per_actor: 1}
    resources: {workers: 4, gpus_per_worker: 1}
"""


def checked(folder: Path, policy: str) -> Plan:
    (folder / "job.yaml").write_text(JOB)
    (folder / "site.yaml").write_text(f"version: 1\npolicy: {policy}\n")
    loaded = load(folder / "job.yaml", (), {})
    plan = resolve(loaded, "runs", "90m")
    check_policy(loaded, plan, load_profile(str(folder / "site.yaml"), {}))
    return plan


def test_what_fits_the_policy_passes_and_the_deadline_is_in_the_plan(tmp_path: Path) -> None:
    plan = checked(tmp_path, "{max_workers: 6, max_gpus: 6}")
    assert plan.deadline_s == 5400
    assert Plan.from_json(plan.to_json()).deadline_s == 5400


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            "{max_workers: 5}",
            "6 processes at once (4 train workers with 4 CPU and 1 GPU each",
        ),
        ("{max_gpus: 5}", "needs 6 GPUs at once"),
        ("{max_gpus: 0}", "the profile allows 0"),
        ("{allow_user_code: false}", "'mine:reward' is code of the user's own"),
    ],
)
def test_more_than_the_policy_allows_is_refused_with_both_places(
    tmp_path: Path, policy: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        checked(tmp_path, policy)
    assert said in str(caught.value)
    assert f"{tmp_path / 'job.yaml'}:" in str(caught.value)
    assert f"{tmp_path / 'site.yaml'}:2" in str(caught.value)

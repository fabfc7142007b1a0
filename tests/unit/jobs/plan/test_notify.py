"""What a spec says of retries, standing still and webhooks, resolved."""

from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.load.site_profile import load_profile
from jobs.plan.policy import resolve_within
from jobs.plan.resolve import Plan, resolve, stage_key

STAGE = "kind: sft, model: m, dataset: {train: [x]}"
SPEC = f"version: 1\nname: bot\nstages:\n  sft: {{{STAGE}}}\n"
HOOK = 'notify: {webhook: "${secret:HOOK_URL}", on: [failed]}\n'


def _plan(tmp_path: Path, text: str, profile: str | None = None) -> Plan:
    (tmp_path / "job.yaml").write_text(text)
    loaded = load(tmp_path / "job.yaml", (), {})
    if profile is None:
        return resolve(loaded, str(tmp_path))
    (tmp_path / "site.yaml").write_text(profile)
    return resolve_within(loaded, str(tmp_path), load_profile(str(tmp_path / "site.yaml"), {}))


def test_the_spec_s_webhook_wins_over_the_profile_s(tmp_path: Path) -> None:
    site = 'version: 1\nnotify: {webhook: "${secret:SITE_HOOK}"}\n'
    own = _plan(tmp_path, SPEC + HOOK, site).notify
    assert own is not None
    assert (own.webhook, own.on) == ("${secret:HOOK_URL}", ("failed",))
    sites = _plan(tmp_path, SPEC, site).notify
    assert sites is not None
    assert (sites.webhook, sites.on) == ("${secret:SITE_HOOK}", ("failed", "stalled", "succeeded"))
    assert _plan(tmp_path, SPEC).notify is None


def test_a_plan_s_json_keeps_it_by_name(tmp_path: Path) -> None:
    plan = _plan(tmp_path, SPEC + HOOK)
    assert Plan.from_json(plan.to_json()).notify == plan.notify
    assert Plan.from_json(_plan(tmp_path, SPEC).to_json()).notify is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("notify: {webhook: https://hooks.example/x}", "job.yaml:5"),
        ('notify: {webhook: "${secret:X}", on: []}', "notify.on"),
        ('notify: {webhook: "${secret:X}", on: [ended]}', "notify.on"),
        ('notify: {webhok: "${secret:X}"}', "webhook"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        _plan(tmp_path, SPEC + line + "\n")
    assert message in str(caught.value)


def test_retries_and_patience_are_no_part_of_the_key(tmp_path: Path) -> None:
    more = "retry: {max_attempts: 3, backoff: 5s}, stall_timeout: 2h"
    plain, patient = (
        _plan(tmp_path, SPEC.replace(STAGE, stage)).stages[0]
        for stage in (STAGE, f"{STAGE}, {more}")
    )
    assert patient.spec.retry.max_attempts == 3
    assert patient.spec.stall_timeout == "2h"
    assert stage_key(plain, 42, {}, {}) == stage_key(patient, 42, {}, {})


def test_a_stall_timeout_is_a_time(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"stages\.sft\.stall_timeout"):
        _plan(tmp_path, SPEC.replace(STAGE, f"{STAGE}, stall_timeout: soon"))

"""Three hosts with addresses of their own; one is cut off while it trains, and heals."""

from pathlib import Path

import pytest

from tests.chaos.three_hosts import STEPS, three_hosts, train_and_cut, why_not

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray finds a host dead after some ten seconds, not after a minute."""


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.soak
def test_a_run_outlives_a_host_that_is_cut_off(tiny_model: Path, tmp_path: Path) -> None:
    with three_hosts(**QUICK) as hosts:
        story = train_and_cut(hosts, str(tiny_model), tmp_path, cut_s=20)
    assert story.code == 0, story.output
    (retry,) = story.of("retry")
    assert retry["reason"] == "node_lost"
    assert f"the cluster lost {story.victim}" in story.output
    (resumed,) = story.of("resumed")
    assert 0 < resumed["step"] < STEPS
    assert f"going on from step {resumed['step']}" in story.output

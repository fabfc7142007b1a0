"""On Kubernetes, services are objects of their own, so that a run leaves them out."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import jobs
from cluster.fingerprint import EXPECTED, check_expected, fingerprint
from jobs.cli import cli
from jobs.errors import ClusterError
from jobs.load.loader import load
from jobs.plan.resolve import Plan, resolve
from jobs.plan.unserved import without_services

EXAMPLES = Path(jobs.__file__).parent / "examples"


def plan(text: str, folder: Path) -> Plan:
    file = folder / "job.yaml"
    file.write_text(text)
    return resolve(load(file, (), {}), "./runs")


def test_services_and_what_needs_them_are_left_out(tmp_path: Path) -> None:
    text = (EXAMPLES / "sft-to-serve.yaml").read_text()
    later = "  later: {kind: merge, model: '${stages.sft.model}', after: [serve]}\n"
    left = without_services(plan(text + later, tmp_path))
    assert [stage.name for stage in left.stages] == ["sft", "merge", "check"]


def test_a_plan_without_services_stays(tmp_path: Path) -> None:
    whole = plan((EXAMPLES / "alpaca-lora.yaml").read_text(), tmp_path)
    assert without_services(whole) == whole


def test_nothing_left_to_run_is_said(tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    stage = "{kind: serve, model: smollm2-135m-instruct}"
    spec.write_text(f"version: 1\nname: only\nstages:\n  serve: {stage}\n")
    result = CliRunner().invoke(cli, ["run", str(spec), "--no-serve"])
    assert result.exit_code == 2
    assert "nothing but services" in result.output


def test_an_image_of_other_code_is_refused() -> None:
    check_expected({})
    check_expected({EXPECTED: fingerprint()})
    with pytest.raises(ClusterError, match=fingerprint()):
        check_expected({EXPECTED: "0" * 64})

"""The profiles that we ship are right, and a job can be rendered with each."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import jobs
from jobs.cli import cli

ROOT = Path(jobs.__file__).parents[1]
PROFILES = sorted((ROOT / "k8s" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda file: file.stem)
def test_a_job_is_rendered_with_the_profile(profile: Path) -> None:
    spec = ROOT / "jobs" / "examples" / "self-cognition.yaml"
    result = CliRunner().invoke(cli, ["render", str(spec), "--profile", str(profile)])
    assert result.exit_code == 0, result.output


def test_the_profiles_name_what_the_overlays_make() -> None:
    base = ROOT / "k8s" / "base"
    made = {
        (document["kind"], document["metadata"]["name"])
        for file in (*base.glob("*.yaml"), ROOT / "k8s" / "overlays" / "prod" / "queues.yaml")
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if "metadata" in document
    }
    for profile in PROFILES:
        site = yaml.safe_load(profile.read_text(encoding="utf-8"))["kubernetes"]
        assert ("Namespace", site["namespace"]) in made
        assert ("PersistentVolumeClaim", site["storage"]["claim"]) in made
        assert ("ServiceAccount", site["service_account"]) in made
        assert ("LocalQueue", site.get("queue", "raysmith")) in made

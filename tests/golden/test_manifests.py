"""What every example is in Kubernetes, to the last line.

After a change that is meant: RAYSMITH_UPDATE_GOLDEN=1 pytest tests/golden
"""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import jobs
from cluster.fingerprint import fingerprint
from jobs.cli import cli

HERE = Path(__file__).parent
EXAMPLES = sorted((Path(jobs.__file__).parent / "examples").glob("*.yaml"))
UPDATE = "RAYSMITH_UPDATE_GOLDEN"
KEYED = "stages.serve.auth.api_key=${secret:SERVE_API_KEY}"


def rendered(*arguments: str) -> str:
    command = ["render", *arguments, "--profile", str(HERE / "profile.yaml")]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return result.stdout.replace(fingerprint(), "FINGERPRINT")


def assert_golden(name: str, text: str) -> None:
    file = HERE / name
    if os.environ.get(UPDATE):
        file.write_text(text, encoding="utf-8")
    assert file.is_file(), f"no {file}; make it with: {UPDATE}=1 pytest tests/golden"
    expected = file.read_text(encoding="utf-8")
    assert text == expected, f"if this is meant: {UPDATE}=1 pytest tests/golden"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_the_example_renders_as_before(example: Path) -> None:
    settings = ["--set", KEYED] if example.stem == "sft-to-serve" else []
    assert_golden(f"{example.stem}.manifests.yaml", rendered(str(example), *settings))


def test_a_shared_cluster_renders_as_before() -> None:
    assert_golden("cluster.manifests.yaml", rendered("--cluster", "shared"))

"""What people type wrong in a serve stage, and what they are told."""

from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.graph import inputs
from jobs.plan.resolve import Plan, resolve

SPEC = """\
version: 1
name: bot
stages:
  sft: {kind: sft, model: m, dataset: {train: [x.jsonl]}}
  merge: {kind: merge, model: "${stages.sft.model}"}
  serve:
    kind: serve
    model: m
"""


def plan(folder: Path, more: str) -> Plan:
    file = folder / "job.yaml"
    file.write_text(SPEC + "".join(f"    {line}\n" for line in more.splitlines()))
    return resolve(load(file, (), {}), "./runs")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("host: 0.0.0.0", "needs a key"),
        ("host: 192.168.0.1", "needs a key"),
        ("host: '::'", "needs a key"),
        ("auth: {}", "give api_key or api_keys_file"),
        ("auth: {api_key: my-own-key}", "${secret:"),
        ("replicas: {min: 2}", "max is 1, which is less than min, 2"),
        ("replicas: {num: 2}", "unknown key 'num'"),
        ("port: 70000", "65535"),
        ("adapters: {a.b: m}", "a.b"),
        ("adapters: {bot: m}\nserved_model_name: bot", "names the model and an adapter"),
        ("adapters: {a: '${stages.merge.model}'}", "leaves a model, and this takes: adapter"),
        ("limits: {max_body: 4}", "max_body"),
        ("limits: {request_timeout_s: 0}", "request_timeout_s"),
        ("gpus_per_replica: 2", "make them equal"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, more: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(tmp_path, more)
    assert expected in str(caught.value)
    assert "job.yaml:" in str(caught.value)
    assert "my-own-key" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        "host: ::1",
        "host: localhost",
        "host: 0.0.0.0\nauth: {api_key: '${secret:KEY}'}",
        "host: 0.0.0.0\nauth: {api_keys_file: ./keys}",
        "adapters: {a: '${stages.sft.model}'}",
    ],
)
def test_what_is_right_is_taken(tmp_path: Path, more: str) -> None:
    found = plan(tmp_path, more)
    assert Plan.from_json(found.to_json()) == found
    stage = found.stage("serve")
    assert stage.produces == "service"
    assert inputs(stage.spec) == ({"adapters.a": "sft"} if "adapters" in more else {})

"""What artifacts are committed with of their making."""

from pathlib import Path

from cluster.fingerprint import fingerprint
from jobs.load.loader import load
from jobs.made_of import made_of
from jobs.plan.resolve import resolve
from storage.commit import begin, commit
from storage.layout import Layout
from storage.manifest import Owner
from workloads.check import Checked

JOB = """version: 1
name: bot
stages:
  sft:
    kind: sft
    model: /models/base
    dataset:
      train:
        - /data/rows.jsonl#10
        - ${stages.sample.dataset}
        - {path: /data/more.jsonl, columns: {question: query}}
  sample:
    kind: sample
    model: /models/base
    dataset: {prompts: [/data/prompts.jsonl]}
"""


def test_inputs_are_told_with_where_they_are_from_and_their_digests(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    plan = resolve(load(tmp_path / "job.yaml", (), {}), str(tmp_path))
    sampled = Layout(tmp_path).run("bot", "run-0").artifact("sample")
    owner = Owner(run_id="run-0", stage="sample", key="k0", attempt=2)
    begin(sampled, owner)
    (sampled / "rows.jsonl").write_text("{}")
    manifest = commit(sampled, owner, {})
    digests = {
        "sft": {
            "model": "d1",
            "dataset.train[0]": "d2",
            "dataset.train[2]": "d4",
            "nowhere[3].x": "d3",
        }
    }
    checked = Checked({}, (), digests, versions={"torch": "2.13.0"})
    assert made_of(plan.stage("sft"), {"dataset.train[1]": sampled}, checked) == {
        "inputs": [
            {
                "name": "dataset.train[1]", "run": "bot/run-0", "stage": "sample", "key": "k0",
                "digest": manifest.digest,
            },
            {"name": "model", "source": "/models/base", "digest": "d1"},
            {"name": "dataset.train[0]", "source": "/data/rows.jsonl#10", "digest": "d2"},
            {"name": "dataset.train[2]", "source": "/data/more.jsonl", "digest": "d4"},
            {"name": "nowhere[3].x", "digest": "d3"},
        ],
        "code": fingerprint(),
        "versions": {"torch": "2.13.0"},
    }  # fmt: skip

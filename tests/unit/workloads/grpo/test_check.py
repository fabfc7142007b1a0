"""What looking at a GRPO stage before a run finds: model, prompts, rewards, environment."""

import json
from pathlib import Path

import pytest

from jobs.errors import Problem, SpecError
from jobs.load.loader import load
from jobs.plan.resolve import resolve
from workloads.check import Checked, Findings, check
from workloads.grpo.check import check as check_stage
from workloads.models.resolve import BUNDLED, BundledModel

SPEC = """\
version: 1
name: a
stages:
  grpo:
    kind: grpo
    model: model
    dataset: {train: [rows.jsonl]}
    rewards:
      - {name: accuracy}
"""
GOOD = {"query": "2+2?", "response": "4"}
BARE = {"query": "2+2?"}
FILES = {
    "model/config.json": "{}",
    "model/tokenizer_config.json": '{"chat_template": "x"}',
    "critic/config.json": '{"architectures": ["LlamaForSequenceClassification"], '
    '"id2label": {"0": "LABEL_0"}}',
    "critic/tokenizer_config.json": '{"chat_template": "x"}',
    "adapter/adapter_config.json": '{"base_model_name_or_path": "model"}',
    "mine.py": "def brief(completions, **columns):\n    return [0.0 for _ in completions]\n",
    "shop.py": "class Shop:\n    def reset(self, prompt, columns): ...\n"
    "    def step(self, messages): ...\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("model", "critic", "adapter"):
        (tmp_path / name / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    _rows(tmp_path, GOOD)
    return tmp_path


def _rows(folder: Path, *rows: object) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _check(folder: Path, reward: str = "{name: accuracy}", more: str = "") -> Findings:
    file = folder / "job.yaml"
    file.write_text(SPEC.replace("{name: accuracy}", reward) + more)
    loaded = load(file, (), {})
    return check_stage(loaded, resolve(loaded, "./runs").stage("grpo"))


def _problem(findings: Findings) -> Problem:
    (problem,) = findings.problems
    return problem


def test_what_is_in_order_leaves_only_digests(folder: Path) -> None:
    findings = _check(folder)
    assert (findings.problems, findings.notes) == ([], [])
    assert set(findings.digests) == {"model", "dataset.train[0]"}


def test_the_model_is_looked_at_as_in_training(folder: Path) -> None:
    (folder / "model" / "tokenizer_config.json").write_text("{}")
    problem = _problem(_check(folder))
    assert problem.path == "stages.grpo.model"
    assert "has no chat template" in problem.message


def test_prompt_and_completion_must_fit_into_the_model(folder: Path) -> None:
    config = folder / "model" / "config.json"
    config.write_text('{"max_position_embeddings": 1535}')
    problem = _problem(_check(folder))
    assert problem.path == "stages.grpo.dataset"
    assert "1,536 tokens" in problem.message
    assert "1,535" in problem.message
    for fits in ('{"max_position_embeddings": 1536}',
                 '{"max_position_embeddings": 512, "rope_scaling": {"factor": 4}}'):  # fmt: skip
        config.write_text(fits)
        assert not _check(folder).problems


def test_rows_are_judged_as_prompts(folder: Path) -> None:
    _rows(folder, GOOD, BARE, {"response": "4"})
    findings = _check(folder, "{name: repetition}")
    assert findings.problems == []
    assert findings.notes[0] == "rows.jsonl: 1 of 3 rows can't be used"
    assert findings.notes[1].startswith(f"  {folder}/rows.jsonl:3: its columns (response)")
    _rows(folder, {"response": "4"})
    assert _problem(_check(folder, "{name: repetition}")).line == 1


@pytest.mark.parametrize("name", ["accuracy", "cosine"])
def test_a_reward_that_compares_needs_solutions(folder: Path, name: str) -> None:
    _rows(folder, BARE, BARE)
    problem = _problem(_check(folder, f"{{name: {name}}}"))
    assert (problem.path, problem.line, problem.column) == ("stages.grpo.rewards[0]", 9, 9)
    assert f"no row has a solution, which the reward '{name}' compares with" in problem.message
    assert "columns: {theirs: solution}" in (problem.remedy or "")
    _rows(folder, BARE, {**BARE, "solution": 4}, GOOD)
    some = _check(folder, f"{{name: {name}}}")
    assert some.problems == []
    assert some.notes == [
        f"1 of 3 rows have no solution: the reward '{name}' says nothing of their completions"
    ]


def test_other_rewards_need_no_solutions(folder: Path) -> None:
    _rows(folder, BARE)
    findings = _check(folder, "{name: format}\n      - {import_path: 'mine:brief'}")
    assert (findings.problems, findings.notes) == ([], [])


def test_a_reward_s_settings_are_checked_at_their_place(folder: Path) -> None:
    problem = _problem(_check(folder, "{name: format, params: {patern: x}}"))
    assert (problem.path, problem.line, problem.column) == ("stages.grpo.rewards[0].params", 9, 24)
    assert "did you mean 'pattern'?" in (problem.remedy or "")
    unset = _problem(_check(folder, "{name: length, params: {max_length: 9999}}"))
    assert "max_completion_length 512" in unset.message


@pytest.mark.parametrize(
    ("path", "message"),
    [("nothing:f", "no module 'nothing'"), ("mine:breif", "mine.py has no function 'breif'")],
)
def test_a_function_that_is_not_there_is_a_problem(folder: Path, path: str, message: str) -> None:
    problem = _problem(_check(folder, f"{{import_path: '{path}'}}"))
    assert (problem.path, problem.line) == ("stages.grpo.rewards[0].import_path", 9)
    assert message in problem.message


def test_a_function_s_module_counts_by_its_content(folder: Path) -> None:
    reward = "{import_path: 'mine:brief'}"
    before = _check(folder, reward).digests
    assert set(before) == {"model", "dataset.train[0]", "rewards[0].import_path"}
    (folder / "mine.py").write_text(FILES["mine.py"] + "# other\n")
    after = _check(folder, reward).digests
    assert before["rewards[0].import_path"] != after["rewards[0].import_path"]
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("raise RuntimeError('was run')\n")
    (folder / "pack" / "deep.py").write_text(FILES["mine.py"])
    packed = _check(folder, "{import_path: 'pack.deep:brief'}").digests
    assert packed["rewards[0].import_path"] == before["rewards[0].import_path"]


def test_a_reward_model_is_a_model_with_one_output(folder: Path) -> None:
    findings = _check(folder, "{model: critic}")
    assert findings.problems == []
    assert set(findings.digests) == {"model", "dataset.train[0]", "rewards[0].model"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere", "no model at 'nowhere'"),
        ("adapter", "'adapter' is an adapter, and a full model is needed"),
        ("model", "'model' has 2 outputs, and a reward model has one"),
        ("bundled", "'bundled' writes text, and is no reward model"),
    ],
)
def test_another_model_scores_nothing(
    folder: Path, model: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = BundledModel(package="json", distribution="pytest", file="", hub_id="")
    monkeypatch.setitem(BUNDLED, "bundled", bundled)
    findings = _check(folder, f"{{model: {model}}}")
    problem = findings.problems[0]
    assert (problem.path, problem.line, problem.column) == ("stages.grpo.rewards[0].model", 9, 17)
    assert message in problem.message


def test_a_model_that_writes_is_no_reward_model(folder: Path) -> None:
    config = '{"architectures": ["LlamaForCausalLM"], "id2label": {"0": "a"}}'
    (folder / "critic" / "config.json").write_text(config)
    assert "is a LlamaForCausalLM, and no" in _problem(_check(folder, "{model: critic}")).message
    (folder / "critic" / "config.json").write_text(FILES["critic/config.json"])
    (folder / "critic" / "tokenizer_config.json").write_text("{}")
    assert "has no chat template" in _problem(_check(folder, "{model: critic}")).message


def test_a_reward_model_of_another_stage_is_left_to_that_stage(folder: Path) -> None:
    more = "  judge: {kind: sft, model: model, dataset: {train: [x]}, tuner: {type: full}}\n"
    findings = _check(folder, '{model: "${stages.judge.model}"}', more)
    assert findings.problems == []
    assert set(findings.digests) == {"model", "dataset.train[0]"}


def test_an_environment_is_looked_for_and_counts(folder: Path) -> None:
    assert _check(folder, more="    environment: {name: calculator}\n").problems == []
    mine = "    environment: {import_path: 'shop:Shop'}\n"
    before = _check(folder, more=mine)
    assert before.problems == []
    (folder / "shop.py").write_text(FILES["shop.py"] + "# other\n")
    after = _check(folder, more=mine)
    place = "environment.import_path"
    assert before.digests[place] != after.digests[place]
    problem = _problem(_check(folder, more=mine.replace("Shop'", "Stall'")))
    assert (problem.path, problem.line) == (f"stages.grpo.{place}", 10)


def test_the_stage_s_key_follows_the_reward_function(folder: Path) -> None:
    def key() -> str:
        file = folder / "job.yaml"
        file.write_text(SPEC.replace("{name: accuracy}", "{import_path: 'mine:brief'}"))
        loaded = load(file, (), {})
        checked: Checked = check(loaded, resolve(loaded, "./runs"))
        return checked.keys["grpo"]

    before = key()
    assert key() == before
    (folder / "mine.py").write_text(FILES["mine.py"] + "# other\n")
    assert key() != before


def test_all_problems_of_a_stage_are_told_at_once(folder: Path) -> None:
    (folder / "rows.jsonl").unlink()
    (folder / "model" / "model.safetensors").unlink()
    file = folder / "job.yaml"
    file.write_text(SPEC.replace("{name: accuracy}", "{model: nowhere}"))
    loaded = load(file, (), {})
    with pytest.raises(SpecError) as caught:
        check(loaded, resolve(loaded, "./runs"))
    paths = [problem.path.removeprefix("stages.grpo.") for problem in caught.value.problems]
    assert paths == ["model", "dataset.train[0]", "rewards[0].model"]

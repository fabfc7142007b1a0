"""The loader: YAML 1.2 scalars, interpolations, overrides, and positions."""

import math
from pathlib import Path

import pytest

from jobs.errors import SpecError, UserError
from jobs.load.loader import LoadedSpec, load
from jobs.load.tree import value_at
from jobs.load.yaml_tree import parse, scalar
from jobs.spec.sft import SftSpec

SPEC = """\
version: 1
name: a
stages:
  sft:
    kind: sft
    model: m
    dataset: {train: [x.jsonl, y.jsonl]}
    training:
      learning_rate: 1e-4
"""


def _load(folder: Path, text: str = SPEC, sets: tuple[str, ...] = (), **environ: str) -> LoadedSpec:
    file = folder / "job.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, sets, environ)


def _sft(loaded: LoadedSpec) -> SftSpec:
    stage = loaded.spec.stages["sft"]
    assert isinstance(stage, SftSpec)
    return stage


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1.5", 1.5), (".5", 0.5), ("010", 10), ("0x1f", 31), ("0o17", 15),
        ("-3", -3), ("true", True), ("False", False), ("~", None), ("", None), ("null", None),
        ("no", "no"), ("on", "on"), ("off", "off"), ("yes", "yes"), ("1:30", "1:30"),
        ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), ("tRue", "tRue"), ("-.inf", -math.inf),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_a_huge_number_stays_text() -> None:
    assert scalar("9" * 5000) == "9" * 5000


def test_quoted_scalars_and_keys_are_text() -> None:
    assert parse("on: '8'\n\"1\": !!str no\n", "f").value == {"on": "8", "1": "no"}


def test_merge_keys_give_way_to_own_keys() -> None:
    document = parse("a: &a {x: 1, y: 2}\nb:\n  y: 3\n  <<: *a\n", "f")
    assert document.value["b"] == {"x": 1, "y": 3}
    assert document.positions.of(("b", "y")).line == 3
    assert document.positions.of(("b", "x")).line == 1


def test_anchors_can_not_explode() -> None:
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(SpecError, match="too many values"):
        parse("\n".join(lines), "f")


def test_positions_are_those_of_values_and_fall_back_to_the_section(tmp_path: Path) -> None:
    loaded = _load(tmp_path)
    problem = loaded.problem("stages.sft.training.learning_rate", "wrong", "mend it")
    assert (problem.line, problem.column) == (9, 22)
    assert problem.path == "stages.sft.training.learning_rate"
    assert loaded.problem("stages.sft.training.max_steps", "wrong").line == 8
    second = loaded.problem("stages.sft.dataset.train[1]", "wrong")
    assert (second.line, second.column) == (7, 32)
    assert loaded.position("stages.sft.tuner") is None


def test_problems_of_other_modules_are_masked(tmp_path: Path) -> None:
    problem = _load(tmp_path).problem("name", "bad: hf_abcdefghijklmnopqrst")
    assert problem.message == "bad: hf_a…"


def test_unquoted_environment_values_are_read_as_scalars(tmp_path: Path) -> None:
    text = SPEC + "      max_steps: ${env:STEPS}\n"
    loaded = _load(tmp_path, text, STEPS="12", OTHER="x")
    assert _sft(loaded).training.max_steps == 12
    assert loaded.environment == {"STEPS": "12"}


def test_environment_values_inside_text_are_text(tmp_path: Path) -> None:
    text = SPEC.replace("model: m", 'model: "${env:ID}"').replace("x.jsonl", "${env:ID}/x.jsonl")
    with pytest.raises(SpecError, match="put interpolations in quotes"):
        _load(tmp_path, text, ID="7")
    stage = _sft(_load(tmp_path, text.replace("${env:ID}/x.jsonl", "'${env:ID}/x'"), ID="7"))
    assert (stage.model, stage.dataset.train[0]) == ("7", "7/x")


def test_a_secret_in_the_environment_is_refused_and_not_shown(tmp_path: Path) -> None:
    text = SPEC + "    hub_token: ${env:TOKEN}\n"
    with pytest.raises(SpecError) as caught:
        _load(tmp_path, text, TOKEN="hunter2hunter2")
    assert "${secret:NAME}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_references_to_secrets_stay_references(tmp_path: Path) -> None:
    loaded = _load(tmp_path, SPEC + "    hub_token: ${secret:HF_TOKEN}\n", HF_TOKEN="x" * 20)
    assert _sft(loaded).hub_token == "${secret:HF_TOKEN}"


def test_columns_may_be_named_like_secrets(tmp_path: Path) -> None:
    text = SPEC.replace("x.jsonl", "{path: x, columns: {token: query, password: response}}")
    assert value_at(_load(tmp_path, text).tree, ("stages", "sft", "dataset", "train", 0, "path"))


def test_overrides_win_and_make_sections(tmp_path: Path) -> None:
    sets = (
        "stages.sft.training.learning_rate=1e-5",
        "stages.sft.tuner.rank=16",
        "stages.sft.dataset.train=[a.jsonl, b.jsonl#3]",
        "stages.sft.dataset.train[1]=c.jsonl",
        "stages.sft.dataset.system=You are: helpful",
        'stages.sft.model="8"',
        "stages.m={kind: merge, model: '${stages.sft.model}'}",
    )
    loaded = _load(tmp_path, sets=sets)
    stage = _sft(loaded)
    assert (stage.training.learning_rate, stage.model) == (1e-5, "8")
    assert stage.tuner.model_dump()["rank"] == 16
    assert stage.dataset.train == ("a.jsonl", "c.jsonl")
    assert stage.dataset.system == "You are: helpful"
    assert list(loaded.spec.stages) == ["sft", "m"]
    position = loaded.position("stages.sft.training.learning_rate")
    assert position is not None
    assert position.layer == "set"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("stages.sft.training.learnign_rate=1", "did you mean 'learning_rate'?"),
        ("stages.sfd.model=x", "did you mean 'sft'?"),
        ("stages.sft.model.x=1", "stages.sft.model has nothing below it"),
        ("stages.sft.dataset.train[7]=x", "the list has 2 items"),
        ("stages.sft.training.max_steps=many", "--set stages.sft.training.max_steps: expected"),
        ("stages.sft.dataset={a", "this is not YAML"),
        ("learning_rate", "is not of the form path=value"),
    ],
)
def test_a_bad_override_says_why(tmp_path: Path, setting: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        _load(tmp_path, sets=(setting,))
    assert expected in str(caught.value)
    assert "--set" in str(caught.value)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "support-bot.yaml").write_text(SPEC)
    with pytest.raises(UserError, match=r"did you mean .*support-bot\.yaml"):
        load(tmp_path / "support_bot.yaml", (), {})


def test_folders_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load(tmp_path, (), {})
    file = tmp_path / "job.yaml"
    file.write_bytes(b"name: \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        load(file, (), {})


def test_relative_paths_are_looked_up_beside_the_spec_first(tmp_path: Path) -> None:
    assert _load(tmp_path).base_folders == (str(tmp_path.resolve()), str(Path.cwd()))

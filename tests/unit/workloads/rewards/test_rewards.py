"""The built-in rewards as a whole: registered, checked before a run, and loaded."""

import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import UserError
from jobs.spec.rewards import RewardName, RewardSpec
from workloads import load_function
from workloads.rewards import REWARDS, check_reward, load_reward
from workloads.rewards.parameters import SUPPLIED
from workloads.rewards.samples import Sample, columns_of

NAMES = sorted(REWARDS)
SAMPLE = Sample(
    "1", [{"role": "user", "content": "2+2?"}], "<answer>4</answer>", [5, 6, 7], False,
    {"solution": "4", "tests": ["assert True"], "schema": "{}", "length": "?", "max_len": "?"},
)  # fmt: skip
NEEDED = {"length": {"min_length": 1}}
"""Settings without which a reward makes no sense."""


def spec(**fields: Any) -> RewardSpec:
    return RewardSpec.model_validate(fields)


def test_every_name_of_the_spec_is_built_in() -> None:
    assert set(typing.get_args(RewardName)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_keeps_to_the_rules(name: str) -> None:
    function = load_function(REWARDS[name])
    parameters = list(inspect.signature(function).parameters.values())
    assert parameters[0].name == "completions"
    for parameter in parameters:
        is_setting = parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in SUPPLIED
        assert is_setting == (parameter.default is not parameter.empty), parameter
        assert f"    {parameter.name}: " in function.__doc__, f"{parameter} is not described"


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_is_checked_and_scores_a_row(name: str) -> None:
    reward = spec(name=name, params=NEEDED.get(name, {}))
    check_reward(reward)
    function = load_reward(reward, max_completion_length=8)
    scores = function([SAMPLE.completion], **columns_of([SAMPLE]))
    assert isinstance(scores, list)
    assert [type(score) for score in scores] == [float]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"name": "cosine", "params": {"min_len_value_worng": 1}},
            r"reward 'cosine' has no parameter 'min_len_value_worng'(.|\n)*"
            r"did you mean 'min_len_value_wrong'\? its parameters are max_len, min_len_value",
        ),
        ({"name": "cosine", "params": {"max_completion_length": 3}}, "has no parameter 'max_comp"),
        ({"name": "accuracy", "params": {"a": 1}}, r"(?s)no parameter 'a'.*it has no parameters"),
        (
            {"name": "cosine", "label": "short", "params": {"max_len_value_wrong": "low"}},
            "reward 'short': max_len_value_wrong is 'low'; input should be a valid number",
        ),
        ({"name": "repetition", "params": {"n_grams": 0}}, "greater than or equal to 1"),
        ({"name": "repetition", "params": {"n_grams": True}}, "should be a valid integer"),
        ({"name": "repetition", "params": {"max_penalty": 1}}, "less than or equal to 0"),
        ({"name": "length"}, "would be 1 for every completion"),
        ({"name": "format", "params": {"pattern": "("}}, "no regular expression"),
        ({"name": "json_schema", "params": {"schema": {"type": 1}}}, "not a JSON schema"),
        ({"model": "org/model", "params": {"batch": 1}}, "did you mean 'batch_size'"),
        ({"import_path": "nothing_like_it:f"}, "no module 'nothing_like_it'"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_reward(spec(**fields))


def test_settings_are_checked_against_the_greatest_length_where_it_is_known() -> None:
    reward = spec(name="soft_overlong", params={"cache_length": 100})
    check_reward(reward)
    with pytest.raises(UserError, match="cache_length 100 is not below max_length 64"):
        check_reward(reward, max_completion_length=64)


def test_a_datasets_column_is_no_setting() -> None:
    function = load_reward(spec(name="cosine"), max_completion_length=3)
    assert function([SAMPLE.completion], **columns_of([SAMPLE])) == pytest.approx([0.5])


def test_a_users_function_is_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unit_brevity.py").write_text(
        "def brevity(completions, level, *, scale=1):\n"
        "    return [scale * len(c) + n for c, n in zip(completions, level)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reward = spec(import_path="unit_brevity:brevity", params={"scale": 10})
    function = load_reward(reward, max_completion_length=8)
    assert function(["ab"], level=[1], other=[2]) == [21]


def test_checking_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\ndef f(completions): ...")
    program = f"""
import sys
from jobs.spec.rewards import RewardSpec
from workloads.rewards import REWARDS, check_reward
for name in REWARDS:
    check_reward(RewardSpec(name=name, params={{"min_length": 1}} if name == "length" else {{}}))
check_reward(RewardSpec(model="org/model"))
check_reward(RewardSpec(import_path="mine:f"), ["{tmp_path}"])
heavy = {{"numpy", "ray", "torch", "transformers", "sympy", "jsonschema", "mine"}}
assert sys.modules.keys().isdisjoint(heavy), sys.modules.keys() & heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)

"""A reward model: what it scores, and which folders hold none."""

import json
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.spec.rewards import RewardSpec
from workloads.data.rows import Message
from workloads.rewards import load_reward
from workloads.rewards.model import load_classifier, model_scores

COMPLETIONS = ["Paris.", "I am a small assistant, made for tests. " * 4, "four"]
PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}],
    [{"role": "user", "content": "Count to five."}],
]


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny classifier with one output."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("reward-model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def test_scores_do_not_depend_on_the_batch(reward_model: Path) -> None:
    classifier = load_classifier(str(reward_model), 0)
    one, two, all_ = (
        model_scores(COMPLETIONS, PROMPTS, classifier=classifier, batch_size=size)
        for size in (1, 2, 8)
    )
    assert one == pytest.approx(two, abs=1e-4)
    assert one == pytest.approx(all_, abs=1e-4)
    assert len({round(score, 3) for score in one}) == 3


def test_a_score_is_the_models_own_at_the_last_token(reward_model: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    turns = [*PROMPTS[0], {"role": "assistant", "content": COMPLETIONS[0]}]
    ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
    model = AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(input_ids=ids).logits.item()
    classifier = load_classifier(str(reward_model), 0)
    found = model_scores(COMPLETIONS[:1], PROMPTS[:1], classifier=classifier)
    assert found == pytest.approx([expected], abs=1e-4)


def test_it_is_loaded_like_any_reward(reward_model: Path) -> None:
    spec = RewardSpec(model="some/model", params={"batch_size": 2})
    function = load_reward(spec, max_completion_length=8, model_folder=str(reward_model))
    scores = function(COMPLETIONS, prompts=PROMPTS, solution=[None] * 3)
    classifier = load_classifier(str(reward_model), 0)
    assert scores == model_scores(COMPLETIONS, PROMPTS, classifier=classifier, batch_size=2)


def test_a_long_conversation_loses_its_beginning(reward_model: Path) -> None:
    classifier = load_classifier(str(reward_model), 0)
    long: list[list[Message]] = [[{"role": "user", "content": "Well? " * 1000}]]
    longer: list[list[Message]] = [[{"role": "user", "content": "What? " + "Well? " * 1000}]]
    scores = [
        model_scores(["Paris."], prompts, classifier=classifier) for prompts in (long, longer)
    ]
    assert scores[0] == scores[1]
    other = model_scores(["Five."], long, classifier=classifier)
    assert other != scores[0]


def test_a_causal_model_is_no_reward_model(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 outputs, and a reward model has one"):
        load_classifier(str(tiny_model), 0)
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {"0": "reward"}}))
    with pytest.raises(UserError, match=r"has no weights for score\.weight: it is no reward model"):
        load_classifier(str(tmp_path), 0)


def test_an_adapter_and_a_missing_template_are_named(reward_model: Path, tmp_path: Path) -> None:
    for file in reward_model.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="has no chat template"):
        load_classifier(str(tmp_path), 0)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="is an adapter"):
        load_classifier(str(tmp_path), 0)

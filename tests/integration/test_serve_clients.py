"""The clients that people have: the official `openai` package, and `raysmith chat`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.integration.served import KEY, Served

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "tiny"
HELLO: Any = [{"role": "user", "content": "Who are you?"}]
VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["verdict", "sure"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "decide", "parameters": VERDICT}},
    {"type": "function", "function": {"name": "wait", "parameters": {"type": "object"}}},
]


@pytest.fixture(scope="module")
def client(service: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=60) as opened:
        yield opened


def _chat(client: OpenAI, **settings: Any) -> Any:
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "temperature": 0, **settings}
    return client.chat.completions.create(**asked)


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == (MODEL, "model")
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_chat_and_what_it_cost(client: OpenAI) -> None:
    answer = _chat(client)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert answer.model == MODEL
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = _chat(client)
    assert again.choices[0].message.content == choice.message.content
    assert again.id != answer.id


def test_a_stream_says_what_a_whole_answer_says(client: OpenAI) -> None:
    whole = _chat(client, max_tokens=32)
    chunks = list(_chat(client, max_tokens=32, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 10
    (finish,) = [
        c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason
    ]
    assert finish == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_log_probabilities(client: OpenAI) -> None:
    answer = _chat(client, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    for token in tokens:
        assert token.logprob <= 0
        best = [top.logprob for top in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert best[0] == token.logprob, "greedy decoding takes the likeliest"
    assert "".join(token.token for token in tokens).startswith(
        answer.choices[0].message.content[:1]
    )


def test_n_answers_follow_from_the_seed(client: OpenAI) -> None:
    def texts(seed: int) -> list[str]:
        answer = _chat(client, n=3, seed=seed, temperature=1)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert len(set(texts(1))) == 3


def test_stop_ends_before_the_text(client: OpenAI) -> None:
    whole = _chat(client, max_tokens=24).choices[0].message.content
    stop = whole[4:7]
    choice = _chat(client, max_tokens=24, stop=[stop]).choices[0]
    assert choice.message.content == whole[: whole.index(stop)]
    assert choice.finish_reason == "stop"


def test_completions(client: OpenAI) -> None:
    prompts: list[Any] = ["The capital of France is", [11, 12, 13]]
    for prompt in prompts:
        answer = client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=4, temperature=0, logprobs=2
        )
        assert answer.choices[0].logprobs
        assert len(answer.choices[0].logprobs.tokens or []) == 4
    both = client.completions.create(
        model=MODEL, prompt=["a", "b"], max_tokens=4, temperature=0, stream=True
    )
    assert {chunk.choices[0].index for chunk in both} == {0, 1}


# The likeliest that a model of random weights writes between tokens of JSON is space without end.
VARIED = {"temperature": 1, "seed": 1, "max_tokens": 300}


def test_a_tool_is_called_as_its_schema_says(client: OpenAI) -> None:
    named = {"type": "function", "function": {"name": "decide"}}
    asked = {"tools": TOOLS, "tool_choice": named, **VARIED}
    answer = _chat(client, **asked)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "decide"
    _is_verdict(call.function.arguments)
    calls = [
        chunk.choices[0].delta.tool_calls[0]
        for chunk in _chat(client, **asked, stream=True)
        if chunk.choices and chunk.choices[0].delta.tool_calls
    ]
    assert calls[0].function.name == "decide"
    _is_verdict("".join(part.function.arguments or "" for part in calls))
    history = [
        *HELLO,
        answer.choices[0].message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "noted"},
    ]
    assert _chat(client, messages=history, tools=TOOLS).choices
    required = _chat(client, tools=TOOLS[:1], tool_choice="required", **VARIED)
    for each in required.choices[0].message.tool_calls:
        assert each.function.name == "decide"
        _is_verdict(each.function.arguments)
    assert not _chat(client, tools=TOOLS, tool_choice="none").choices[0].message.tool_calls


def test_an_answer_follows_a_json_schema(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "v", "schema": VERDICT, "strict": True}}
    _is_verdict(_chat(client, response_format=form, **VARIED).choices[0].message.content)
    chunks = _chat(client, response_format=form, **VARIED, stream=True)
    _is_verdict("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))


def _is_verdict(text: str) -> None:
    content = json.loads(text)
    assert content.keys() == {"verdict", "sure"}
    assert content["verdict"] in ("yes", "no")
    assert isinstance(content["sure"], bool)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"model": "other"}, openai.NotFoundError),
        ({"messages": []}, openai.BadRequestError),
        ({"messages": [{"role": "wizard", "content": "?"}]}, openai.BadRequestError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"max_tokens": 0}, openai.BadRequestError),
        ({"max_tokens": 100_000}, openai.BadRequestError),
        ({"n": 9}, openai.BadRequestError),
        ({"logprobs": True, "top_logprobs": 99}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, openai.BadRequestError),
        ({"extra_body": {"no_such_field": 1}}, openai.BadRequestError),
        ({"tool_choice": "required"}, openai.BadRequestError),
    ],
)
def test_errors_are_the_clients_own(
    client: OpenAI, settings: dict[str, Any], kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind) as caught:
        _chat(client, **settings)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]
    with pytest.raises(kind):
        _chat(client, **settings, stream=True)


def test_a_wrong_key_is_the_clients_own_error(service: Served) -> None:
    with OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        with pytest.raises(openai.AuthenticationError):
            _chat(client)


def test_raysmith_chat_finds_the_service_of_a_run(service: Served, client: OpenAI) -> None:
    def chat(key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs.cli", "chat", *arguments]
        return subprocess.run(
            [*command, "--storage", str(service.storage), "--max-tokens", "8"],
            input="Who are you?\n",
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "RAYSMITH_API_KEY": key},
        )

    answered = chat(KEY, "tiny", "--temperature", "0")
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout == f"{_chat(client).choices[0].message.content}\n"
    assert "cut off" in answered.stderr
    refused = chat("wrong", "tiny")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "refuses the API key" in refused.stderr
    assert "wrong" not in refused.stderr

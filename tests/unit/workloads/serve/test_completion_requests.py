"""What a client may ask for, and what is refused before a replica sees it."""

import json
from typing import Any

import pytest

from jobs.spec.serve import LimitsSpec
from workloads.serve.answers import Refusal
from workloads.serve.completion_requests import checked_request, encoded

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello!"}]


def check(path: str, body: Any, **limits: Any) -> dict[str, Any]:
    """What is left of a request, given as a value or as the body's text."""
    text = body if isinstance(body, str) else json.dumps(body)
    return checked_request(path, text.encode(), LimitsSpec(**limits))


def refusal(path: str, body: Any, **limits: Any) -> dict[str, Any]:
    """The error that a request is refused with."""
    with pytest.raises(Refusal) as caught:
        check(path, body, **limits)
    assert caught.value.status == 400
    error: dict[str, Any] = json.loads(caught.value.body)["error"]
    return error


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"model": "m", "temperature": 0, "top_p": 0.5, "n": 2, "seed": -1, "stop": ["a", "b"]},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 5, "max_completion_tokens": 3, "logit_bias": {"7": -1}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
         "tool_choice": "auto"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
        {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True},
    ],
)  # fmt: skip
def test_fields_of_clients_pass_unchanged(extra: dict[str, Any]) -> None:
    body = {"messages": HELLO} | extra
    assert check(CHAT, body) == body


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_calls_that_are_asked_for_fit_their_tool(choice: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    body = {"messages": HELLO, "tools": [tool], "tool_choice": choice}
    assert check(CHAT, body)["tools"][0]["function"]["strict"] is True


def test_what_means_nothing_here_is_taken_and_left_out() -> None:
    told = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    assert check(CHAT, {"messages": HELLO, "temperature": None} | told) == {"messages": HELLO}


def test_messages_of_a_conversation_with_tools_pass_unchanged() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]
    assert check(CHAT, {"messages": messages})["messages"] == messages


def test_what_clients_add_to_answers_in_their_history_is_left_out() -> None:
    answer = {"role": "assistant", "content": "a"}
    told = [*HELLO, answer | {"provider_specific_fields": {"refusal": None}}, *HELLO]
    assert check(CHAT, {"messages": told})["messages"] == [*HELLO, answer, *HELLO]


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_schemas_that_cost_an_engine_its_life_are_refused(path: str) -> None:
    schema = {"type": "array", "minItems": 10**12}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    asked: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "a"}
    assert refusal(path, asked | {"response_format": form})["param"] == "response_format"
    function = {"name": "f", "parameters": schema}
    tools = [{"type": "function", "function": function}]
    assert refusal(CHAT, {"messages": HELLO, "tools": tools})["param"] == "tools"


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_of_every_form_pass(prompt: Any) -> None:
    assert check(COMPLETION, {"prompt": prompt, "echo": True}) == {"prompt": prompt, "echo": True}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", "null", '{"messages": [', '{"temperature": NaN}', '{"n": Infinity}',
        '{"temperature": 1e400}', '{"n": -Infinity}', "[" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000, '{"seed": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(text: str) -> None:
    refusal(CHAT, text)


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(Refusal):
        checked_request(CHAT, b'{"messages": "\xff"}', LimitsSpec())
    with pytest.raises(Refusal):
        checked_request(CHAT, json.dumps({"messages": HELLO}).encode("utf-16"), LimitsSpec())


def test_half_a_surrogate_pair_is_refused() -> None:
    refusal(CHAT, '{"messages": [{"role": "user", "content": "\\ud800"}]}')
    function = {"name": "f", "parameters": {"a": "\ud800"}}
    request = check(
        CHAT, {"messages": HELLO, "tools": [{"type": "function", "function": function}]}
    )
    with pytest.raises(Refusal):
        encoded(request)


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"logit_bias": {"x": 1}}, None),
        ({"logit_bias": {"1": 1000}}, None),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, None),
        ({"stream": "yes"}, "stream"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello!"}, "messages"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages.0.role"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ],
)
def test_values_that_can_t_be_are_refused(extra: dict[str, Any], param: str | None) -> None:
    error = refusal(CHAT, {"messages": HELLO} | extra)
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param


@pytest.mark.parametrize(
    "name",
    [
        "chat_template", "documents", "mm_processor_kwargs", "kv_transfer_params", "prompt_embeds",
        "request_id", "priority", "structured_outputs", "cache_salt", "vllm_xargs", "functions",
        "prompt_logprobs", "use_beam_search", "temprature",
    ],
)  # fmt: skip
def test_fields_that_are_not_listed_never_reach_vllm(name: str) -> None:
    error = refusal(CHAT, {"messages": HELLO, name: 1})
    assert error["param"] == name
    assert error["code"] == "unknown_parameter"


def test_pictures_are_refused() -> None:
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    error = refusal(CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert error["message"] == "messages.0.content.0.type: Input should be 'text'"


def test_arguments_of_calls_must_be_json_objects() -> None:
    for arguments in ("{", "7", "NaN"):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        refusal(CHAT, {"messages": [{"role": "assistant", "tool_calls": [call]}]})


def test_amounts_are_bounded() -> None:
    refusal(CHAT, {"messages": HELLO * 11}, max_messages=10)
    refusal(CHAT, {"messages": HELLO, "n": 9}, max_choices=8)
    refusal(COMPLETION, {"prompt": ["a"] * 3, "n": 3}, max_choices=8)
    refusal(CHAT, {"messages": HELLO, "max_tokens": 11}, max_tokens=10)
    refusal(CHAT, {"messages": HELLO, "max_completion_tokens": 11}, max_tokens=10)
    check(COMPLETION, {"prompt": [1] * 100}, max_choices=8)


def test_errors_do_not_repeat_what_was_sent() -> None:
    error = refusal(CHAT, {"messages": HELLO, "stop": ["x" * 100_000]})
    assert len(json.dumps(error)) < 1000

"""What a client may ask for: everything in it is looked at before a replica sees it.

The fields are OpenAI's, and those of vLLM's that only say how to sample. vLLM understands much
more: templates to render, files to fetch, embeddings to load. What is not listed here is refused,
and never reaches it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from jobs.spec.serve import LimitsSpec
from workloads.serve.answers import Refusal
from workloads.serve.schemas import check_schema

_MAX_DEPTH = 64
_MAX_LOGPROBS = 20
_SHOWN = 200

_ACCEPTED_ONLY = frozenset(
    {
        "metadata", "modalities", "prompt_cache_key", "safety_identifier", "service_tier", "store",
        "user", "verbosity",
    }
)  # fmt: skip
"""What OpenAI's clients may send, and what changes nothing here."""


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


Text = Annotated[str, StringConstraints(max_length=4_000_000)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Schema = dict[str, Any]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class TextPart(_Part):
    """A part of a message. There are no others: models are served that read text."""

    type: Literal["text"]
    text: Text


class FunctionCall(_Part):
    """A call that the model made of a tool; `arguments` is JSON."""

    name: FunctionName
    arguments: Text


class ToolCall(_Part):
    """A call that the model made, in a message of its own."""

    id: Annotated[str, StringConstraints(max_length=256)]
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class Message(_Part):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    refusal: Text | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    # litellm's, in answers that are sent back to it as history. It is left out.
    provider_specific_fields: Annotated[dict[str, Any] | None, Field(exclude=True)] = None


class Function(_Part):
    """What a tool is called with."""

    name: FunctionName
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(_Part):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Part):
    """The name of a tool."""

    name: FunctionName


class NamedTool(_Part):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(_Part):
    """What a stream of events carries beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class PlainFormat(_Part):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class NamedSchema(_Part):
    """A JSON Schema with a name."""

    name: Annotated[str, StringConstraints(max_length=256)]
    description: Text | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(_Part):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class Sampling(_Part):
    """What requests of both kinds have in common."""

    model: Annotated[str, StringConstraints(max_length=256)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[
        Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")],
        Annotated[float, Field(ge=-100, le=100)],
    ] | None = Field(default=None, max_length=1024)  # fmt: skip
    seed: Int64 | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    response_format: PlainFormat | SchemaFormat | None = None
    # vLLM's own, which only say how to sample.
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    # Told by clients, and without a meaning here.
    user: Annotated[str, StringConstraints(max_length=1024)] | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None


class ChatRequest(Sampling):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")],
        bool | int | float | Text,
    ] | None = None  # fmt: skip


class CompletionRequest(Sampling):
    """The body of `POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=_MAX_LOGPROBS)] | None = None


REQUESTS: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
"""What is asked for at each path."""


def checked_request(path: str, body: bytes, limits: LimitsSpec) -> dict[str, Any]:
    """The request in a body, when it is one that can be answered: the fields that were given.

    Raises:
        Refusal: with status 400 when it is not.
    """
    content = _parsed(body)
    try:
        request = REQUESTS[path].model_validate(content)
    except ValidationError as error:
        raise _invalid(error) from None
    if isinstance(request, ChatRequest):
        _check_chat(request, limits)
    _check_amounts(request, limits)
    if isinstance(request.response_format, SchemaFormat):
        check_schema(request.response_format.json_schema.schema_, "response_format")
    if isinstance(request, ChatRequest) and request.tool_choice not in (None, "none", "auto"):
        for tool in request.tools or ():
            # A call that is asked for fits the tool, as with OpenAI; vLLM leaves that open.
            if tool.function.strict is None:
                tool.function.strict = True
    given = request.model_dump(exclude_unset=True, by_alias=True, exclude=set(_ACCEPTED_ONLY))
    return {name: value for name, value in given.items() if value is not None}


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body.decode(), parse_constant=_refuse_constant)
        too_deep = _is_deeper(content, _MAX_DEPTH)
    except RecursionError:
        too_deep = True
    except ValueError as error:
        raise Refusal(400, f"the body is no valid JSON: {error}", code="invalid_json") from None
    if too_deep:
        raise Refusal(400, f"the body is nested deeper than {_MAX_DEPTH} levels")
    if not isinstance(content, dict):
        raise Refusal(400, "the body must be a JSON object")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _invalid(error: ValidationError) -> Refusal:
    """What is wrong first, without the value, which may be long, and without pydantic's words."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    place = _names(errors[0])
    # Of the forms that a value may have, the one is meant that it fits in the furthest.
    forms = [each for each in errors if _names(each)[: len(place)] == place]
    first = max(forms, key=lambda each: len(_names(each)))
    param = ".".join(_names(first))[:_SHOWN] or None
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])[:_SHOWN]
        return Refusal(400, f"unknown field: {name!r}", param=name, code="unknown_parameter")
    message = f"{param}: {first['msg']}" if param else first["msg"]
    return Refusal(400, message, param=param, code="invalid_value")


def _names(error: ErrorDetails) -> list[str]:
    return [str(part) for part in error["loc"] if _is_field(part)]


def _is_field(part: str | int) -> bool:
    """Whether a part of an error's place is the client's, and not the name of a type."""
    return isinstance(part, int) or (
        part.isidentifier() and part[:1].islower() and part not in _TYPES
    )


_TYPES = frozenset({"str", "int", "float", "bool", "list", "dict", "constrained"})


def _check_chat(request: ChatRequest, limits: LimitsSpec) -> None:
    count = len(request.messages)
    if count > limits.max_messages:
        raise Refusal(
            400, f"{count} messages are more than {limits.max_messages}", param="messages"
        )
    if request.top_logprobs and not request.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if request.continue_final_message and request.add_generation_prompt is not False:
        raise Refusal(
            400,
            "continue_final_message needs add_generation_prompt: false",
            param="continue_final_message",
        )
    for tool in request.tools or ():
        check_schema(tool.function.parameters or {}, "tools")
    names = {tool.function.name for tool in request.tools or ()}
    choice = request.tool_choice
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise Refusal(400, "tool_choice names none of the tools", param="tool_choice")
    if choice in ("auto", "required") and not names:
        raise Refusal(400, f"tool_choice {choice} needs tools", param="tool_choice")
    for index, message in enumerate(request.messages):
        for call in message.tool_calls or ():
            _check_arguments(call.function.arguments, index)


def _check_arguments(arguments: str, index: int) -> None:
    try:
        value = json.loads(arguments or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refusal(
            400,
            f"messages.{index}.tool_calls: the arguments of a call must be a JSON object",
            param="messages",
        )


def _check_amounts(request: ChatRequest | CompletionRequest, limits: LimitsSpec) -> None:
    prompts = 1
    asked = request.max_tokens
    if isinstance(request, ChatRequest):
        asked = request.max_completion_tokens or asked
    elif isinstance(request.prompt, list) and not isinstance(request.prompt[0], int):
        prompts = len(request.prompt)
    if (choices := (request.n or 1) * prompts) > limits.max_choices:
        raise Refusal(400, f"{choices} completions are more than {limits.max_choices}", param="n")
    if asked and limits.max_tokens and asked > limits.max_tokens:
        raise Refusal(400, f"max_tokens may be {limits.max_tokens} at most", param="max_tokens")
    if request.min_tokens and asked and request.min_tokens > asked:
        raise Refusal(400, "min_tokens is more than max_tokens", param="min_tokens")


def encoded(request: dict[str, Any]) -> bytes:
    """A request as a replica takes it.

    Raises:
        Refusal: if a text in it is no Unicode, such as half of a surrogate pair.
    """
    try:
        return json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refusal(400, "a text in the body is no valid Unicode", code="invalid_json") from None

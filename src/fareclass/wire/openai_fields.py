"""The OpenAI API's own request fields and their types (section 11, R50)."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Stop = str | Annotated[list[str], Meta(max_length=64)] | None
TokenIds = list[int]
Object = dict[str, Any]


class StreamOptions(msgspec.Struct):
    """`stream_options`: whether the caller wants the usage as a last chunk."""

    include_usage: bool | None = None


class Part(msgspec.Struct):
    """One part of a message, as far as every API and engine agrees on it."""

    type: str | None = None
    text: str | None = None


class Message(msgspec.Struct):
    """One message, likewise."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Object] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    """What a tool of type `function` is."""

    name: str
    description: str | None = None
    parameters: Object | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    type: str
    function: Function | None = None


class Common(msgspec.Struct):
    """Fields of every generating call."""

    model: Name
    service_tier: str | None = None
    user: str | None = None


class Sampled(Common):
    """Fields of chat and of plain completions. How far a number may go is the engine's to say."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stop = None


class Chat(Sampled, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    functions: list[Function] | None = None
    tool_choice: str | Object | None = None
    function_call: str | Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: Object | None = None
    modalities: list[str] | None = None
    audio: Object | None = None
    prediction: Object | None = None
    web_search_options: Object | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    moderation: Object | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Object | None = None
    prompt_cache_retention: str | None = None


class Completion(Sampled, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | TokenIds]
    max_tokens: Tokens | None = None
    best_of: Count | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None


class Embedding(Common, kw_only=True):
    """`POST /v1/embeddings`."""

    input: str | list[str | int | TokenIds]
    dimensions: Count | None = None
    encoding_format: str | None = None

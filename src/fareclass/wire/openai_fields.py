"""The OpenAI API's own request fields: their names, and the types of those that the gateway reads."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Stop = str | Annotated[list[str], Meta(max_length=64)] | None
TokenIds = list[int]

CHAT_FIELDS = frozenset(
    [
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    ]
)
COMPLETION_FIELDS = frozenset(
    [
        "best_of",
        "echo",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "model",
        "n",
        "presence_penalty",
        "prompt",
        "seed",
        "service_tier",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "top_p",
        "user",
    ]
)
EMBEDDING_FIELDS = frozenset(["dimensions", "encoding_format", "input", "model", "service_tier", "user"])


class StreamOptions(msgspec.Struct):
    """`stream_options`: whether the caller wants the usage as a last chunk."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """One message, as far as every API and engine agrees on it."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class Common(msgspec.Struct):
    """Fields of every generating call."""

    model: Name
    service_tier: str | None = None
    user: str | None = None


class Sampled(Common):
    """Fields of chat and of plain completions."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    n: Count | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: Stop = None


class Chat(Sampled, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None


class Completion(Sampled, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | TokenIds]
    best_of: Count | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None


class Embedding(Common, kw_only=True):
    """`POST /v1/embeddings`."""

    input: str | list[str | int | TokenIds]

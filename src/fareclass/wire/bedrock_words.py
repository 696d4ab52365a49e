"""A chat's names of things in the names of the Converse API, for refusals: callers know only what they sent."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from fareclass.core.outcomes import Refusal

_PLACE = re.compile(r"\b(messages|tools)\[([0-9]{1,6})\](?:\.content\[([0-9]{1,6})\])?")
_NAMED = re.compile(r"`[^`]*`")
_POINT = re.compile(r"`([^`]*)\.cache_control(?:\.ttl)?`")
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "max_tokens": "inferenceConfig.maxTokens",
        "model": "modelId",
        "service_tier": "serviceTier.type",
        "stop": "inferenceConfig.stopSequences",
        "temperature": "inferenceConfig.temperature",
        "tool_choice.name": "toolConfig.toolChoice.tool.name",
        "tools": "toolConfig.tools",
        "top_p": "inferenceConfig.topP",
    }
)
ADDITIONAL = (
    "frequency_penalty", "logit_bias", "parallel_tool_calls", "presence_penalty", "reasoning_effort", "seed",
    "thinking", "top_k",
)  # fmt: skip
"""Fields of a chat that are asked for as `additionalModelRequestFields`."""


class Places(msgspec.Struct, frozen=True):
    """Where the parts of a chat stand in the caller's own body: its messages, each with its parts, and its tools."""

    messages: Sequence[tuple[str, Sequence[str]]]
    tools: Sequence[str]


def own_words(refusal: Refusal, places: Places) -> Refusal:
    """A refusal of a chat's fields."""
    message = _NAMED.sub(lambda found: f"`{_translated(found[0][1:-1], places)}`", refusal.message)
    return Refusal(
        refusal.outcome,
        _POINT.sub(r"The `cachePoint` behind `\1`", message),
        param=None if refusal.param is None else _translated(refusal.param, places),
        code=refusal.code,
        retry_after_ms=refusal.retry_after_ms,
        retry=refusal.retry,
        cause=refusal.cause,
    )


def _translated(name: str, places: Places) -> str:
    def place(found: re.Match[str]) -> str:
        number, part = int(found[2]), found[3]
        if found[1] == "tools":
            return places.tools[number] if number < len(places.tools) else found[0]
        if number >= len(places.messages):
            return found[0]
        path, parts = places.messages[number]
        return parts[int(part)] if part is not None and int(part) < len(parts) else path

    if name.partition(".")[0].partition("[")[0] in ADDITIONAL:
        return f"additionalModelRequestFields.{name}"
    name = _PLACE.sub(place, _NAMES.get(name, name))
    return name.replace(".function.parameters", ".inputSchema.json").replace(".image_url.url", ".source.bytes")

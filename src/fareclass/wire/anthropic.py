"""Anthropic Messages: a body becomes the fields of a chat."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fareclass.core import field_names
from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key
from fareclass.engine.upstream import CONTINUES
from fareclass.wire import anthropic_fields as fields
from fareclass.wire import openai, prefixes
from fareclass.wire.anthropic_input import Turns, chat_choice, chat_tools, read
from fareclass.wire.anthropic_reply import AnthropicDialect
from fareclass.wire.arrival import Arrival
from fareclass.wire.json_checks import decode_object
from fareclass.wire.refusals import refuse

NAME: Final = "messages"
PATH: Final = "/v1/messages"
_OWN: Final = frozenset(fields.Messages.__struct_fields__)
_SAME: Final = ("max_tokens", "stream", "temperature", "top_p", "top_k")
"""Fields that engines know by the same name."""
_REFUSED: Final = ("container", "context_management", "inference_geo", "mcp_servers")
TEMPLATE: Final = "chat_template_kwargs"
"""A field of engines in which a chat template is told whether to think."""
_LITTLE_THINKING, _MUCH_THINKING = 4_096, 16_384
"""Budgets in tokens up to which thinking is of low effort, and from which on it is of high."""
_EFFORTS: Mapping[str, str] = MappingProxyType({"low": "low", "medium": "medium"})
"""Of those beyond, engines know only `high`."""
_PLACE = re.compile(r"\bmessages\[([0-9]{1,6})\](?:\.content\[([0-9]{1,6})\])?")
_THEIRS: Final = {".image_url.url": ".source.url", ".function.parameters": ".input_schema"}
"""A chat's names of things, and those of this API."""


class BlockChat(NamedTuple):
    """A chat that another API's blocks have become. Engines know its `top_k`, and `chat_template_kwargs` if it thinks."""

    plain: openai.OpenAIEndpoint
    thinking: openai.OpenAIEndpoint

    @classmethod
    def named(cls, name: str) -> "BlockChat":
        """As the call of this name asks for it."""
        own = openai.CHAT.own_fields | {"top_k"}
        plain = openai.CHAT._replace(name=name, own_fields=own)
        return cls(plain, plain._replace(own_fields=own | {TEMPLATE}))

    def understand(
        self,
        made: dict[str, Any],
        thinking: fields.ThinkingConfig | None,
        size_bytes: int,
        arrival: Arrival,
        key: Key,
        *,
        marked: bool,
    ) -> Request:
        """The request. Its answer goes on with a last turn of the assistant, as these APIs have it (R11).

        Raises:
            Refusal: `invalid`, in the words of a chat.
        """
        chat = self.plain if thinking is None else self.thinking
        request = chat.understand(made, size_bytes, arrival, key, marked=marked)
        if thinking is not None and thinking.type != "disabled":
            request.continuable = False  # engines refuse to think on in an answer that they are given the beginning of
        last = request.body["messages"][-1]
        if last["role"] == "assistant" and last["content"] and not last.get("tool_calls"):
            request.body = {**request.body, CONTINUES: True}
        return request


_CHAT: Final = BlockChat.named(NAME)


class AnthropicEndpoint(NamedTuple):
    """Implements `dialect.Endpoint`."""

    name: str = NAME

    def parse(self, raw: bytes, arrival: Arrival, key: Key) -> Request:
        marked = any(mark in raw for mark in prefixes.MARKS)
        return self.understand(decode_object(raw), len(raw), arrival, key, marked=marked)

    def dialect(self, arrival: Arrival, request: Request | None) -> AnthropicDialect:
        return AnthropicDialect(arrival.id, request)

    def understand(self, body: dict[str, Any], size_bytes: int, arrival: Arrival, key: Key, *, marked: bool) -> Request:
        """The request that a decoded body asks for, which took `size_bytes`; `marked`: it may have cache points.

        Raises:
            Refusal: `invalid`, with the path of the offending field in `param`.
        """
        for name in _REFUSED:
            if body.get(name):
                refuse(f"`{name}` is not supported here; leave it out.", name)
        return _understand(body, read(body, fields.Messages), size_bytes, arrival, key, marked=marked)


def prompt_of(body: dict[str, Any], size_bytes: int, arrival: Arrival, key: Key) -> Request:
    """The request whose tokens a call of `count_tokens` asks for: it makes none, so it needs no `max_tokens`.

    Raises:
        Refusal: `invalid`, with the path of the offending field in `param`.
    """
    return _understand(body, read(body, fields.Prompt), size_bytes, arrival, key, marked=True)


def _understand(
    body: dict[str, Any], asked: fields.Prompt, size_bytes: int, arrival: Arrival, key: Key, *, marked: bool
) -> Request:
    turns = Turns()
    if asked.system is not None:
        turns.add_system(asked.system)
    for number, message in enumerate(asked.messages):
        turns.add(message, f"messages[{number}]")
    if not turns.messages:
        refuse("`messages` holds nothing that a model could read.", "messages")
    try:
        made = _chat(body, asked, turns)
        return _CHAT.understand(made, asked.thinking, size_bytes, arrival, key, marked=marked)
    except Refusal as refusal:
        raise _own_words(refusal, turns.places) from None


def _chat(body: dict[str, Any], asked: fields.Prompt, turns: Turns) -> dict[str, Any]:
    """The fields of a chat; what no API knows goes along, and is dropped and named later (R50)."""
    made: dict[str, Any] = {}
    if not body.keys() <= _OWN:
        made = {name: value for name, value in body.items() if name not in _OWN}
        for name in made.keys() & (field_names.API | {TEMPLATE} if asked.thinking else field_names.API):
            refuse(f"`{name}` is no field of the Messages API; leave it out.", name)
    made["model"], made["messages"] = asked.model, turns.messages
    for name in _SAME:
        if (value := body.get(name)) is not None:
            made[name] = value
    if isinstance(asked, fields.Messages):
        _add_call(made, asked)
    if asked.tools:
        made["tools"] = chat_tools(asked.tools)
    if asked.tool_choice is not None:
        _add_choice(made, asked.tool_choice)
    _add_output(made, asked)
    if asked.thinking is not None:
        add_thinking(made, asked.thinking)
    if asked.cache_control is not None:
        point = {"type": "ephemeral", "ttl": asked.cache_control.ttl or "5m"}
        _add_last_point(turns.messages[-1], point)
    return made


def _add_call(made: dict[str, Any], asked: fields.Messages) -> None:
    if asked.stop_sequences:
        made["stop"] = asked.stop_sequences
    if asked.metadata is not None and asked.metadata.user_id is not None:
        made["user"] = asked.metadata.user_id
    if asked.service_tier is not None:
        made["service_tier"] = "default" if asked.service_tier == "standard_only" else asked.service_tier


def _add_choice(made: dict[str, Any], choice: fields.ToolChoice) -> None:
    if choice.type in ("any", "tool") and not made.get("tools"):
        refuse(f"`tool_choice` of type {choice.type} needs `tools`.", "tool_choice")
    if made.get("tools"):
        made["tool_choice"] = chat_choice(choice, made["tools"])
    if choice.disable_parallel_tool_use:
        made["parallel_tool_calls"] = False


def _add_output(made: dict[str, Any], asked: fields.Prompt) -> None:
    config = asked.output_config or fields.OutputConfig()
    form = config.format or asked.output_format
    if form is not None:
        schema = {"name": "answer", "strict": True, "schema": form.schema}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    if config.effort is not None:
        made["reasoning_effort"] = chat_effort(config.effort)


def chat_effort(effort: str) -> str:
    """As far as engines know it."""
    return _EFFORTS.get(effort, "high")


def add_thinking(made: dict[str, Any], thinking: fields.ThinkingConfig) -> None:
    """vLLM, SGLang and llama.cpp all switch it in the chat template; none of them takes a budget in tokens."""
    made[TEMPLATE] = {"enable_thinking": thinking.type != "disabled"}
    if thinking.type == "enabled":
        budget = thinking.budget_tokens
        if budget is None:
            refuse("`thinking.budget_tokens` is required.", "thinking.budget_tokens")
        else:
            effort = "low" if budget <= _LITTLE_THINKING else "medium" if budget < _MUCH_THINKING else "high"
            made.setdefault("reasoning_effort", effort)
        made["thinking.budget_tokens"] = budget  # named as dropped


def _add_last_point(message: dict[str, Any], point: dict[str, Any]) -> None:
    """A cache point of the whole request: at its last block, unless that has one."""
    content = message["content"]
    last = content[-1] if isinstance(content, list) and content else message
    if "cache_control" not in last:
        message.setdefault("cache_control", point)


def _own_words(refusal: Refusal, places: Sequence[tuple[str, Sequence[str]]]) -> Refusal:
    """A refusal of the chat's fields, in the names of this API."""
    translate = partial(_translated, places=places)
    param = None if refusal.param is None else translate(refusal.param)
    return Refusal(refusal.outcome, translate(refusal.message), param=param, code=refusal.code)


def _translated(text: str, places: Sequence[tuple[str, Sequence[str]]]) -> str:
    def place(found: re.Match[str]) -> str:
        number, part = int(found[1]), found[2]
        if number >= len(places):
            return found[0]
        path, parts = places[number]
        return parts[int(part)] if part is not None and int(part) < len(parts) else path

    text = _PLACE.sub(place, text)
    for theirs, ours in _THEIRS.items():
        text = text.replace(theirs, ours)
    return text


ENDPOINT: Final = AnthropicEndpoint()

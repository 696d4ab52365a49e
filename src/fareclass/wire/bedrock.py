"""Bedrock's Converse: a body becomes the fields of a chat."""

from typing import Any, Final, NamedTuple

import msgspec

from fareclass.core import field_names
from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key
from fareclass.wire import bedrock_fields as fields
from fareclass.wire.anthropic import TEMPLATE, BlockChat, add_thinking, chat_effort
from fareclass.wire.anthropic_input import Turns, read
from fareclass.wire.arrival import Arrival
from fareclass.wire.bedrock_input import add_turns, chat_tools, chosen
from fareclass.wire.bedrock_reply import ConverseDialect
from fareclass.wire.bedrock_words import ADDITIONAL, Places, own_words
from fareclass.wire.json_checks import decode_object
from fareclass.wire.refusals import refuse

NAME: Final = "converse"
_OWN: Final = frozenset(fields.Converse.__struct_encode_fields__)
_MARK: Final = b'"cachePoint"'
_REFUSED: Final = ("guardrailConfig", "promptVariables")
_DROPPED: Final = ("additionalModelResponseFieldPaths", "performanceConfig")
"""Named as dropped (R50), since an answer without them is still an answer."""
_CHAT: Final = BlockChat.named(NAME)
_MORE: Final = "additionalModelRequestFields"
_SCHEMA: Final = "outputConfig.textFormat.structure.jsonSchema.schema"


class ConverseEndpoint(NamedTuple):
    """Implements `dialect.Endpoint`, for the model that the path names."""

    model: str
    stream: bool
    name: str = NAME

    def parse(self, raw: bytes, arrival: Arrival, key: Key) -> Request:
        body = decode_object(raw)
        for name in _REFUSED:
            if body.get(name):
                refuse(f"`{name}` is not supported here; leave it out.", name)
        asked = read(body, fields.Converse)
        made: dict[str, Any] = {"stream": True} if self.stream else {}
        if not body.keys() <= _OWN:
            _take_unknown(made, body)
        _add_call(made, body, asked)
        return _understand(self.model, made, asked, len(raw), arrival, key, marked=_MARK in raw)

    def dialect(self, arrival: Arrival, request: Request | None) -> ConverseDialect:
        return ConverseDialect(arrival, request)


def model_name(given: str) -> str:
    """A model as Bedrock's callers name it: as it is, or as the end of an ARN."""
    return given.partition("/")[2] if given.startswith("arn:") else given


def prompt_of(model: str, body: Any, size_bytes: int, arrival: Arrival, key: Key) -> Request:
    """The request whose tokens a call of `count-tokens` asks for, given what stands in `input.converse`.

    Raises:
        Refusal: `invalid`, with the path of the offending field in `param`.
    """
    return _understand(model, {}, read(body, fields.Prompt, "input.converse"), size_bytes, arrival, key, marked=True)


def _understand(
    model: str,
    made: dict[str, Any],
    asked: fields.Prompt,
    size_bytes: int,
    arrival: Arrival,
    key: Key,
    *,
    marked: bool,
) -> Request:
    """The request; `made` has what is no part of its prompt."""
    turns = Turns()
    add_turns(turns, asked)
    if not turns.messages:
        refuse("`messages` holds nothing that a model could read.", "messages")
    made["model"], made["messages"] = model, turns.messages
    config = asked.tool_config or fields.ToolConfig([])
    tools, tool_places = chat_tools(config)
    if tools:
        made["tools"] = tools
    places = Places(turns.places, tool_places)
    try:
        if config.tool_choice is not None:
            made["tool_choice"] = chosen(config.tool_choice, tools)
        more = _add_more(made, asked.additional_model_request_fields or {})
        request = _CHAT.understand(made, more.thinking, size_bytes, arrival, key, marked=marked)
    except Refusal as refusal:
        raise own_words(refusal, places) from None
    request.asked = places
    return request


def _take_unknown(made: dict[str, Any], body: dict[str, Any]) -> None:
    """What no API knows goes along, and is dropped and named later (R50)."""
    for name in body.keys() - _OWN:
        if name in field_names.API or name == TEMPLATE:
            refuse(f"`{name}` is no field of the Converse API; leave it out, or put it into `{_MORE}`.", name)
        made[name] = body[name]


def _add_call(made: dict[str, Any], body: dict[str, Any], asked: fields.Converse) -> None:
    for name in _DROPPED:
        if body.get(name) is not None:
            made[name] = body[name]
    if asked.inference_config is not None:
        _add_inference(made, asked.inference_config)
    if asked.service_tier is not None:
        made["service_tier"] = asked.service_tier.type
    if asked.request_metadata:
        made["metadata"] = asked.request_metadata
    if asked.output_config is not None:
        _add_output(made, asked.output_config)


def _add_inference(made: dict[str, Any], config: fields.Inference) -> None:
    if config.max_tokens is not None:
        made["max_tokens"] = config.max_tokens
    if config.temperature is not None:
        made["temperature"] = config.temperature
    if config.top_p is not None:
        made["top_p"] = config.top_p
    if config.stop_sequences:
        made["stop"] = config.stop_sequences


def _add_output(made: dict[str, Any], config: fields.Output) -> None:
    if config.effort is not None:
        made["reasoning_effort"] = chat_effort(config.effort)
    if config.text_format is None:
        return
    asked = config.text_format.structure.json_schema
    try:
        schema = msgspec.json.decode(asked.schema, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        refuse(f"`{_SCHEMA}` must be the text of a JSON object.", _SCHEMA)
    form = {"name": asked.name or "answer", "strict": True, "schema": schema}
    if asked.description is not None:
        form["description"] = asked.description
    made["response_format"] = {"type": "json_schema", "json_schema": form}


def _add_more(made: dict[str, Any], given: dict[str, Any]) -> fields.Additional:
    """What this API has no place for, but a chat; what neither knows is dropped and named later (R50)."""
    more = read(given, fields.Additional, _MORE)
    for name, value in given.items():
        if name in made or (name in field_names.API and name not in ADDITIONAL) or name == TEMPLATE:
            refuse(f"`{_MORE}.{name}` can't be given here; leave it out.", f"{_MORE}.{name}")
        if name != "thinking":
            made[name] = value
    if more.thinking is not None:
        add_thinking(made, more.thinking)
    return more

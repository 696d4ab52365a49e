"""OpenAI Responses: a body becomes the fields of a chat, with a conversation that is kept here before it."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from fareclass.core import field_names
from fareclass.core.limits import BODY_BYTES
from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key
from fareclass.wire import openai, prefixes
from fareclass.wire import responses_fields as fields
from fareclass.wire.arrival import Arrival
from fareclass.wire.json_checks import decode_object
from fareclass.wire.refusals import refuse
from fareclass.wire.responses_input import Messages, chat_choice, chat_tools
from fareclass.wire.responses_reply import Answered, Asked, ResponsesDialect
from fareclass.wire.responses_words import own_words

NAME: Final = "responses"
PATH: Final = "/v1/responses"
_OWN: Final = frozenset(fields.Responses.__struct_fields__)
_SAME: Final = (
    "temperature", "top_p", "parallel_tool_calls", "user", "safety_identifier", "service_tier", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention",
)  # fmt: skip
"""Fields that a chat has too."""
_REFUSED: Final = ("conversation", "prompt", "moderation", "context_management", "top_logprobs")
_LOGPROBS: Final = "message.output_text.logprobs"


class History(NamedTuple):
    """What is kept of the conversation so far, as input items, and the items that a body refers to.

    `size_bytes` is what both add to the body as JSON, an item as often as it is referred to.
    """

    items: Sequence[fields.Item] = ()
    referred: dict[str, fields.Item] = {}  # noqa: RUF012 - read only
    size_bytes: int = 0


class ResponsesEndpoint(NamedTuple):
    """Implements `dialect.Endpoint`. `keep` is given each answer that is to be stored; None stores none, as in a batch.

    `created_us` is when the response was promised, None for one that begins with its call.
    """

    history: History = History()
    keep: Callable[[Answered], None] | None = None
    created_us: int | None = None

    @property
    def name(self) -> str:
        return NAME

    def parse(self, raw: bytes, arrival: Arrival, key: Key) -> Request:
        body = decode_object(raw)
        asked = _read(body)
        _check(body, asked, stored=self.keep is not None)
        history = self.history
        size_bytes = len(raw) + history.size_bytes
        if size_bytes > BODY_BYTES:
            refuse(f"The conversation is larger than {BODY_BYTES // 2**20} MiB; leave some of it out.", "input")
        given = _items(asked.input, history)
        chat = _messages(asked, history.items, given)
        marked = any(mark in raw for mark in prefixes.MARKS)
        try:
            request = openai.CHAT.understand(_chat(body, asked, chat), size_bytes, arrival, key, marked=marked)
        except Refusal as refusal:
            raise own_words(refusal, chat.places) from None
        request.endpoint = NAME
        stores = self.keep is not None and asked.store is not False
        request.asked = Asked(
            body=asked,
            tools=msgspec.Raw(msgspec.json.encode(asked.tools or [])),
            input=[*history.items, *given],
            keep=self.keep if stores else None,
            raw=raw if asked.background else b"",
            places=chat.places,
            created_us=arrival.arrived_us if self.created_us is None else self.created_us,
        )
        return request

    def dialect(self, arrival: Arrival, request: Request | None) -> ResponsesDialect:
        return ResponsesDialect(request)


def asks_background(request: Request) -> bool:
    """Whether it is to be answered at once with a promise, and run behind the caller's back."""
    return isinstance(request.asked, Asked) and bool(request.asked.body.background)


def _read(body: dict[str, Any]) -> fields.Responses:
    try:
        return msgspec.convert(body, fields.Responses)
    except msgspec.ValidationError as error:
        raise openai.invalid_field(str(error)) from None


def _messages(asked: fields.Responses, before: Sequence[fields.Item], given: Sequence[fields.Item]) -> Messages:
    chat = Messages()
    if asked.instructions is not None:
        chat.say("system", asked.instructions, "instructions")
    for item in before:
        chat.add(item, "previous_response_id")
    if isinstance(asked.input, str):
        chat.say("user", asked.input, "input")
    else:
        for number, item in enumerate(given):
            chat.add(item, f"input[{number}]")
    chat.end_turn()
    if not chat.messages:
        refuse("`input` is empty; there is nothing to answer.", "input")
    return chat


def _check(body: dict[str, Any], asked: fields.Responses, *, stored: bool) -> None:
    """Refuse by name what would be something else if it were left out."""
    for name in _REFUSED:
        if body.get(name):
            refuse(f"`{name}` is not supported here; leave it out.", name)
    for name in body.keys() & field_names.API - _OWN:
        refuse(f"`{name[:64]}` is a field of the chat or completions API; the Responses API has none such.", name)
    if asked.include and _LOGPROBS in asked.include:
        refuse(
            f"`include`: `{_LOGPROBS}` is not supported; the chat completions API gives log probabilities.", "include"
        )
    if asked.truncation not in (None, "disabled", "auto"):
        refuse("`truncation` must be auto or disabled.", "truncation")
    if not stored and asked.previous_response_id is not None:
        refuse("`previous_response_id` can't be used in a batch; send the items.", "previous_response_id")
    if not stored and asked.background:
        refuse("`background` can't be used in a batch, which runs in the background anyway.", "background")
    if asked.background and asked.store is False:
        refuse("`background` needs `store`: its answer is fetched later. Leave `store` out.", "store")


def _items(given: str | list[fields.Item], history: History) -> list[fields.Item]:
    """The caller's own items, references filled in."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not history.referred:
        return given
    return [history.referred.get(reference(item) or "", item) for item in given]


def reference(item: fields.Item) -> str | None:
    """The id of the item that this one stands for; None for one that stands for itself."""
    name = item.get("id")
    return name if item.get("type") == "item_reference" and isinstance(name, str) else None


def _chat(body: dict[str, Any], asked: fields.Responses, chat: Messages) -> dict[str, Any]:
    """The fields of a chat; what no API knows goes along, and is dropped and named later (R50)."""
    made: dict[str, Any] = {name: value for name, value in body.items() if name not in _OWN}
    made |= {name: body[name] for name in _SAME if body.get(name) is not None}
    made["model"], made["messages"] = asked.model, chat.messages
    if asked.stream or asked.background:
        made["stream"] = True
    if asked.max_output_tokens is not None:
        made["max_completion_tokens"] = asked.max_output_tokens
    if asked.tools:
        made["tools"] = chat_tools(asked.tools)
    if asked.tool_choice is not None and (asked.tools or asked.tool_choice != "auto"):
        made["tool_choice"] = chat_choice(asked.tool_choice)
    if asked.include:
        made["include"] = asked.include
    _add_text(made, asked.text or fields.Text())
    reasoning = asked.reasoning or fields.Reasoning()
    if reasoning.effort is not None:
        made["reasoning_effort"] = reasoning.effort
    if reasoning.summary is not None or reasoning.generate_summary is not None:
        made["reasoning.summary"] = reasoning.summary  # no engine makes one, so it is named as dropped
    return made


def _add_text(made: dict[str, Any], text: fields.Text) -> None:
    if text.verbosity is not None:
        made["verbosity"] = text.verbosity
    if isinstance(text.format, fields.JsonObject):
        made["response_format"] = {"type": "json_object"}
    elif isinstance(text.format, fields.JsonSchema):
        schema = msgspec.to_builtins(text.format)
        made["response_format"] = {
            "type": "json_schema",
            "json_schema": {name: value for name, value in schema.items() if name != "type" and value is not None},
        }


ENDPOINT = ResponsesEndpoint()

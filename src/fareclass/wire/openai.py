"""OpenAI request bodies to `core.Request`: the last place that sees their JSON."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from fareclass.core.limits import CALLER_MARGIN_S, WIDTH
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key
from fareclass.wire import media, openai_fields, prefixes
from fareclass.wire.arrival import Arrival
from fareclass.wire.json_checks import decode_object
from fareclass.wire.openai_reply import OpenAIDialect

_BYTES_PER_TOKEN_ID = 4
_CONSTRAINTS = frozenset(
    [
        "ebnf",
        "grammar",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "json_schema",
        "regex",
        "structured_outputs",
    ]
)
_FREE_TOOL_CHOICES = (None, "auto", "none")
_BAD_FIELD = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")

T = TypeVar("T", bound=openai_fields.Common)


class Shape(msgspec.Struct, frozen=True):
    """What the gateway must know of a request, beside its common fields."""

    prompt_bytes: int
    stream: bool = False
    max_tokens: int | None = None
    width: int = 1
    continuable: bool = False
    constrained: bool = False
    stop: tuple[str, ...] = ()
    media_hosts: tuple[str, ...] = ()


class OpenAIEndpoint(NamedTuple):
    """Implements `dialect.Endpoint`. `path` is below `/v1`; `own_fields` are those of the API, read by `read`."""

    name: str
    path: str
    own_fields: frozenset[str]
    read: Callable[[dict[str, Any], int], tuple[openai_fields.Common, Shape]]

    def parse(self, raw: bytes, arrival: Arrival, key: Key) -> Request:
        marked = any(mark in raw for mark in prefixes.MARKS)
        return self.understand(decode_object(raw), len(raw), arrival, key, marked=marked)

    def dialect(self, arrival: Arrival, request: Request | None) -> OpenAIDialect:
        return OpenAIDialect(request)

    def understand(
        self, fields: dict[str, Any], size_bytes: int, arrival: Arrival, key: Key, *, marked: bool
    ) -> Request:
        """The request that a decoded body asks for, which took `size_bytes` in whatever API it came through.

        `marked`: it may have cache points.

        Raises:
            Refusal: `invalid`, with the path of the offending field in `param`.
        """
        common, shape = self.read(fields, size_bytes)
        points = prefixes.take_points(fields) if marked and isinstance(common, openai_fields.Chat) else {}
        if shape.width > WIDTH:
            raise Refusal(
                Outcome.INVALID,
                f"The request asks for {shape.width} sequences (`n` × prompts); at most {WIDTH} run in one request. "
                "Send several requests.",
                param="n" if fields.get("n") else "best_of" if fields.get("best_of") else "prompt",
            )
        fields.pop("service_tier", None)
        extra: dict[str, Any] = {}
        if not fields.keys() <= self.own_fields:
            extra = {name: value for name, value in fields.items() if name not in self.own_fields}
            fields = {name: value for name, value in fields.items() if name in self.own_fields}
        return Request(
            id=arrival.id,
            caller_id=arrival.caller_id,
            endpoint=self.name,
            path=self.path,
            key=key,
            model=common.model,
            tier_word=common.service_tier,
            stream=shape.stream,
            body=fields,
            extra=extra,
            max_tokens=shape.max_tokens,
            width=shape.width,
            size_bytes=size_bytes,
            prompt_bytes=shape.prompt_bytes,
            continuable=shape.continuable,
            constrained=shape.constrained or not _CONSTRAINTS.isdisjoint(extra),
            stop=shape.stop,
            media_hosts=shape.media_hosts,
            blocks=partial(prefixes.blocks, fields, points),
            traceparent=arrival.traceparent,
            arrived_s=arrival.arrived_s,
            arrived_us=arrival.arrived_us,
            deadline_s=None if shape.stream else _deadline_s(arrival),
        )


def _deadline_s(arrival: Arrival) -> float | None:
    """Of a wait in line: a little before the caller's client gives up (R48)."""
    patience_s = arrival.patience_s
    if patience_s is None:
        return None
    return arrival.arrived_s + max(patience_s - CALLER_MARGIN_S, patience_s / 2)


def _convert(fields: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise invalid_field(str(error)) from None


def invalid_field(text: str) -> Refusal:
    """What msgspec says (``Expected `str`, got `int` - at `$.messages[0].role` ``) as a refusal with a path."""
    match = _BAD_FIELD.fullmatch(text)
    what, path = (match["what"], (match["path"] or "").removeprefix(".")) if match else (text, "")
    missing = _MISSING.fullmatch(what)
    if missing is not None:
        param = f"{path}.{missing['name']}" if path else missing["name"]
        return Refusal(Outcome.INVALID, f"`{param}` is required.", param=param)
    return Refusal(Outcome.INVALID, f"`{path}` has the wrong type or value: {what}.", param=path or None)


def _read_chat(fields: dict[str, Any], size_bytes: int) -> tuple[openai_fields.Common, Shape]:
    chat = _convert(fields, openai_fields.Chat)
    if chat.max_tokens is not None and chat.max_completion_tokens is not None:
        raise Refusal(
            Outcome.INVALID,
            "`max_tokens` and `max_completion_tokens` can't both be given; use `max_completion_tokens`.",
            param="max_tokens",
        )
    found = media.scan(fields["messages"])
    width = chat.n or 1
    forced = chat.tool_choice not in _FREE_TOOL_CHOICES or chat.function_call not in _FREE_TOOL_CHOICES
    spoken = chat.modalities is not None and chat.modalities != ["text"]
    return chat, Shape(
        prompt_bytes=max(1, size_bytes - found.inline_chars) + found.items * media.MEDIA_PROMPT_BYTES,
        stream=bool(chat.stream),
        max_tokens=chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens,
        width=width,
        continuable=width == 1
        and not (chat.logprobs or chat.top_logprobs or forced or spoken or fields.get("audio"))
        and _repeatable(chat),
        constrained=chat.response_format is not None and chat.response_format.get("type") != "text",
        stop=_stops(chat.stop),
        media_hosts=tuple(found.hosts),
    )


def _read_completion(fields: dict[str, Any], size_bytes: int) -> tuple[openai_fields.Common, Shape]:
    call = _convert(fields, openai_fields.Completion)
    if call.max_tokens == 0 and not call.echo:
        raise Refusal(
            Outcome.INVALID, "`max_tokens` must be at least 1; only with `echo` may it be 0.", param="max_tokens"
        )
    prompts, prompt_bytes = _prompts("prompt", call.prompt, size_bytes)
    width = max(call.n or 1, call.best_of or 1) * prompts
    return call, Shape(
        prompt_bytes=max(1, prompt_bytes // prompts),
        stream=bool(call.stream),
        max_tokens=call.max_tokens,
        width=width,
        continuable=isinstance(call.prompt, str)
        and width == 1
        and not (call.echo or call.suffix)
        and call.logprobs is None
        and _repeatable(call),
        stop=_stops(call.stop),
    )


def _read_embedding(fields: dict[str, Any], size_bytes: int) -> tuple[openai_fields.Common, Shape]:
    """Inputs of an embedding call are no sequences that decode, so any number of them is one wide."""
    call = _convert(fields, openai_fields.Embedding)
    _, prompt_bytes = _prompts("input", call.input, size_bytes)
    return call, Shape(prompt_bytes=prompt_bytes, max_tokens=0)


def _repeatable(call: openai_fields.Sampled) -> bool:
    """Whether nothing in the sampling depends on all of an answer coming from one call (R11)."""
    return call.seed is None and not call.frequency_penalty and not call.presence_penalty


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _prompts(name: str, prompt: str | list[Any], size_bytes: int) -> tuple[int, int]:
    """How many prompts these are, and their size in bytes; token ids count as four bytes each.

    Raises:
        Refusal: `invalid`, for an empty list or one that mixes strings, ids and lists.
    """
    if isinstance(prompt, str):
        return 1, size_bytes
    kinds = set(map(type, prompt))
    if kinds == {str}:
        return len(prompt), size_bytes
    if kinds == {int}:
        return 1, len(prompt) * _BYTES_PER_TOKEN_ID
    if kinds == {list}:
        return len(prompt), sum(map(len, prompt)) * _BYTES_PER_TOKEN_ID
    raise Refusal(
        Outcome.INVALID,
        f"`{name}` must be a string, or a list of only strings, token ids or lists of them.",
        param=name,
    )


def _fields(kind: type[openai_fields.Common]) -> frozenset[str]:
    return frozenset(kind.__struct_fields__)


CHAT = OpenAIEndpoint("chat.completions", "/chat/completions", _fields(openai_fields.Chat), _read_chat)
COMPLETIONS = OpenAIEndpoint("completions", "/completions", _fields(openai_fields.Completion), _read_completion)
EMBEDDINGS = OpenAIEndpoint("embeddings", "/embeddings", _fields(openai_fields.Embedding), _read_embedding)
ENDPOINTS: Mapping[str, OpenAIEndpoint] = MappingProxyType(
    {f"/v1{endpoint.path}": endpoint for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS)}
)

"""Bedrock's InvokeModel: the body and the answer are those of the Messages API or of OpenAI's chat, in another cover."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key
from fareclass.core.usage import Usage
from fareclass.flow.clock import now_us
from fareclass.flow.reply import Served
from fareclass.wire import anthropic, eventstream, openai, prefixes
from fareclass.wire.anthropic_reply import AnthropicDialect
from fareclass.wire.arrival import Arrival
from fareclass.wire.bedrock_reply import COMMENT, exception, refused, served_headers
from fareclass.wire.dialect import Dialect
from fareclass.wire.errors import Headers
from fareclass.wire.json_checks import decode_object
from fareclass.wire.openai_reply import OpenAIDialect
from fareclass.wire.refusals import refuse

NAME: Final = "invoke"
VERSION: Final = "anthropic_version"
"""A field that only bodies of the Messages API have here."""
_MESSAGES: Final = "messages"
_TIER_HEADER: Final = "X-Amzn-Bedrock-Service-Tier"
_STREAM: Final = "invoke-with-response-stream"
_HEADERS: Final = [*eventstream.HEADERS, (b"x-amzn-bedrock-content-type", b"application/json")]
_CHUNK: Final = eventstream.event("chunk")
_METRICS: Final = b'"amazon-bedrock-invocationMetrics":'

_encode = msgspec.json.Encoder().encode


class InvokeEndpoint(NamedTuple):
    """Implements `dialect.Endpoint`, for the model that the path names."""

    model: str
    stream: bool
    name: str = NAME

    def parse(self, raw: bytes, arrival: Arrival, key: Key) -> Request:
        if arrival.guardrail is not None:
            refuse("Guardrails are not supported here; leave the header `X-Amzn-Bedrock-GuardrailIdentifier` out.")
        body = decode_object(raw)
        self._take_over(body, arrival)
        marked = any(mark in raw for mark in prefixes.MARKS)
        if body.pop(VERSION, None) is None:
            request = openai.CHAT.understand(body, len(raw), arrival, key, marked=marked)
        else:
            request = anthropic.ENDPOINT.understand(body, len(raw), arrival, key, marked=marked)
            request.asked = _MESSAGES
        request.endpoint = NAME
        return request

    def dialect(self, arrival: Arrival, request: Request | None) -> "InvokeDialect":
        return InvokeDialect(arrival, request)

    def _take_over(self, body: dict[str, Any], arrival: Arrival) -> None:
        """What Bedrock has in the path and in headers becomes the field of the body that it is elsewhere."""
        take_model(body, self.model)
        if body.get("stream") is None:
            body["stream"] = self.stream
        elif body["stream"] is not self.stream:
            refuse(f"`stream` must be left out: `invoke` answers whole, and `{_STREAM}` as a stream.")
        if arrival.service_tier is not None:
            tier = arrival.service_tier.decode("latin-1")
            if body.get("service_tier") not in (None, tier):
                refuse(f"`service_tier` and the header `{_TIER_HEADER}` name two tiers; leave one of them out.")
            body["service_tier"] = tier


def prompt_of(model: str, body: dict[str, Any], size_bytes: int, arrival: Arrival, key: Key) -> Request:
    """The request whose tokens a call of `count-tokens` asks for, given a body of either form.

    Raises:
        Refusal: `invalid`, with the path of the offending field in `param`.
    """
    take_model(body, model)
    if body.pop(VERSION, None) is None:
        return openai.CHAT.understand(body, size_bytes, arrival, key, marked=True)
    return anthropic.prompt_of(body, size_bytes, arrival, key)


def take_model(body: dict[str, Any], model: str) -> None:
    """The model of the path, which the body may name too."""
    if body.setdefault("model", model) != model:
        refuse("`model` names another model than the path does; leave it out.")


class InvokeDialect:
    """Implements `dialect.Dialect`: what the body's own API says, each event of it inside one of Bedrock's.

    `clock` tells microseconds.
    """

    __slots__ = ("_arrived_us", "_clock", "_first_us", "_inner", "_request_id")

    stream_headers = _HEADERS
    comment = COMMENT

    def __init__(self, arrival: Arrival, request: Request | None, clock: Callable[[], int] = now_us) -> None:
        """`request` is None for what was refused before it was understood."""
        self._request_id = arrival.id
        self._arrived_us = arrival.arrived_us
        self._first_us = 0
        self._clock = clock
        theirs = request is not None and request.asked == _MESSAGES
        self._inner: Dialect = AnthropicDialect(arrival.id, request) if theirs else OpenAIDialect(request)

    def headers(self, served: Served) -> Headers:
        return served_headers(served)

    def begin(self, served: Served) -> bytes:
        return _chunks(self._inner.begin(served))

    def events(self, events: bytes) -> bytes:
        if not self._first_us:
            self._first_us = self._clock()
        return _chunks(self._inner.events(events))

    def continued(self) -> None:
        self._inner.continued()

    def cut(self, choices: Sequence[int]) -> bytes:
        return _chunks(self._inner.cut(choices))

    def end(self, usage: Usage) -> bytes:
        """The last of it has what the call took."""
        *before, last = _payloads(self._inner.end(usage)) or [b"{}"]
        comma = b"," if last != b"{}" else b""
        last = b"%b%b%b%b}" % (last[:-1], comma, _METRICS, _encode(self._metrics(usage)))
        return b"".join(map(_chunk, [*before, last]))

    def whole(self, served: Served, body: bytes, usage: Usage) -> tuple[Headers, bytes]:
        headers, body = self._inner.whole(served, body, usage)
        return headers + self._counts(usage), body

    def refused(self, refusal: Refusal, served: Served | None) -> tuple[int, Headers, bytes]:
        return refused(refusal, served, self._request_id)

    def broken(self, refusal: Refusal, served: Served | None) -> bytes:
        return exception(refusal)

    def _counts(self, usage: Usage) -> Headers:
        """What a whole answer took."""
        head = b"x-amzn-bedrock-"
        return [
            (head + b"input-token-count", b"%d" % usage.input),
            (head + b"output-token-count", b"%d" % usage.output),
            (head + b"cache-read-input-token-count", b"%d" % usage.cache_read),
            (head + b"cache-write-input-token-count", b"%d" % (usage.cache_write_5m + usage.cache_write_1h)),
            (head + b"invocation-latency", b"%d" % self._ms(self._clock())),
        ]

    def _metrics(self, usage: Usage) -> dict[str, int]:
        now_us = self._clock()
        return {
            "inputTokenCount": usage.input,
            "outputTokenCount": usage.output,
            "invocationLatency": self._ms(now_us),
            "firstByteLatency": self._ms(self._first_us or now_us),
            "cacheReadInputTokenCount": usage.cache_read,
            "cacheWriteInputTokenCount": usage.cache_write_5m + usage.cache_write_1h,
        }

    def _ms(self, at_us: int) -> int:
        return max(0, at_us - self._arrived_us) // 1_000


def _chunks(events: bytes) -> bytes:
    return b"".join(map(_chunk, _payloads(events))) if events else b""


def _payloads(events: bytes) -> list[bytes]:
    """The JSON of server-sent events; comments and the end mark have none."""
    found = []
    for event in events.split(b"\n\n"):
        data = event if event.startswith(b"data: ") else event.partition(b"\n")[2]
        if data.startswith(b"data: {"):
            found.append(data[6:])
    return found


def _chunk(data: bytes) -> bytes:
    return _CHUNK.message(b'{"bytes":"%b"}' % b64encode(data))

"""Answers and refusals of the Converse API (R4)."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.usage import Usage
from fareclass.flow.clock import now_us
from fareclass.flow.reply import Served
from fareclass.wire import chat_events, eventstream
from fareclass.wire.arrival import Arrival
from fareclass.wire.bedrock_stream import ConverseBlocks
from fareclass.wire.bedrock_words import Places, own_words
from fareclass.wire.errors import Headers, bedrock_error

_BEGIN: Final = eventstream.event("messageStart").message(b'{"role":"assistant"}')
_STOP: Final = eventstream.event("messageStop")
_METADATA: Final = eventstream.event("metadata")
COMMENT: Final = eventstream.event("keepAlive").message(b"{}")
"""An event that no client knows, so that it is passed over."""
_EXCEPTIONS: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.INVALID: "validationException",
        Outcome.THROTTLED: "throttlingException",
        Outcome.SHED: "serviceUnavailableException",
        Outcome.EXPIRED: "serviceUnavailableException",
        Outcome.UPSTREAM_FAILED: "modelStreamErrorException",
    }
)
"""What ends a stream that has begun; all else is a fault of ours."""

_encode = msgspec.json.Encoder().encode


class ConverseDialect:
    """Implements `dialect.Dialect`: one message, as events that build it up, or whole. `clock` tells microseconds."""

    __slots__ = ("_arrived_us", "_blocks", "_clock", "_request", "_request_id", "_tier")

    stream_headers = eventstream.HEADERS
    comment = COMMENT

    def __init__(self, arrival: Arrival, request: Request | None, clock: Callable[[], int] = now_us) -> None:
        """`request` is None for what was refused before it was understood."""
        self._request_id = arrival.id
        self._arrived_us = arrival.arrived_us
        self._request = request
        self._blocks = ConverseBlocks()
        self._clock = clock
        self._tier = ""

    def headers(self, served: Served) -> Headers:
        return served_headers(served)

    def begin(self, served: Served) -> bytes:
        self._tier = served.served.word
        return _BEGIN

    def events(self, events: bytes) -> bytes:
        add = self._blocks.add
        return b"".join([add(choice, choice.delta) for choice in chat_events.choices(events)])

    def continued(self) -> None:
        """Nothing of a message tells one upstream call from another."""

    def cut(self, choices: Sequence[int]) -> bytes:
        self._blocks.cut()
        return b""

    def end(self, usage: Usage) -> bytes:
        last = self._blocks.close()
        stop = _STOP.message(_encode({"stopReason": self._blocks.stop_reason}))
        return last + stop + _METADATA.message(_encode(self._account(usage)))

    def whole(self, served: Served, body: bytes, usage: Usage) -> tuple[Headers, bytes]:
        self._tier = served.served.word
        blocks = self._blocks
        choice = chat_events.whole(body)
        blocks.add(choice, choice.message)
        blocks.close()
        message = {"role": "assistant", "content": blocks.content}
        answer = {"output": {"message": message}, "stopReason": blocks.stop_reason, **self._account(usage)}
        return [], _encode(answer)

    def refused(self, refusal: Refusal, served: Served | None) -> tuple[int, Headers, bytes]:
        return refused(self._own_words(refusal), served, self._request_id)

    def broken(self, refusal: Refusal, served: Served | None) -> bytes:
        """The exception that ends a stream that is not whole."""
        return exception(self._own_words(refusal))

    def _own_words(self, refusal: Refusal) -> Refusal:
        if self._request is not None and isinstance(self._request.asked, Places):
            return own_words(refusal, self._request.asked)
        return refusal

    def _account(self, usage: Usage) -> dict[str, Any]:
        """Usage, latency and tier."""
        latency_ms = max(0, self._clock() - self._arrived_us) // 1_000
        return {
            "usage": _usage(usage),
            "metrics": {"latencyMs": latency_ms},
            "serviceTier": {"type": self._tier},
        }


def served_headers(served: Served) -> Headers:
    """Of every answer."""
    return [
        (b"x-amzn-requestid", served.request_id.encode()),
        (b"x-amzn-bedrock-service-tier", served.served.word.encode()),
    ]


def refused(refusal: Refusal, served: Served | None, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal."""
    status, kind, body = bedrock_error(refusal)
    return status, [(b"x-amzn-errortype", kind)] if served is not None else error_headers(refusal, request_id), body


def error_headers(refusal: Refusal, request_id: str) -> Headers:
    """Of a refusal that nothing was served before."""
    return [(b"x-amzn-errortype", bedrock_error(refusal)[1]), (b"x-amzn-requestid", request_id.encode())]


def exception(refusal: Refusal) -> bytes:
    """A refusal as the end of an event stream."""
    kind = _EXCEPTIONS.get(refusal.outcome, "internalServerException")
    return eventstream.exception(kind).message(bedrock_error(refusal)[2])


def _usage(usage: Usage) -> dict[str, Any]:
    """`inputTokens` has the cached ones not in it; `totalTokens` has."""
    writes = {"1h": usage.cache_write_1h, "5m": usage.cache_write_5m}
    return {
        "inputTokens": usage.input,
        "outputTokens": usage.output,
        "totalTokens": usage.prompt + usage.output,
        "cacheReadInputTokens": usage.cache_read,
        "cacheWriteInputTokens": sum(writes.values()),
        "cacheDetails": [{"ttl": ttl, "inputTokens": tokens} for ttl, tokens in writes.items() if tokens],
    }

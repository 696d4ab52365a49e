"""Answers and refusals of the Anthropic Messages API (R4)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.flow.reply import Served
from fareclass.wire import chat_events, sse
from fareclass.wire.anthropic_stream import Blocks, event
from fareclass.wire.errors import Headers, anthropic_error
from fareclass.wire.limit_headers import anthropic_limits

_TIERS: Mapping[Tier, str] = MappingProxyType(
    {
        Tier.RESERVED: "priority",
        Tier.PRIORITY: "priority",
        Tier.DEFAULT: "standard",
        Tier.FLEX: "standard",
        Tier.BATCH: "batch",
    }
)
_STOP: Final = event("message_stop", {})


class AnthropicDialect:
    """Implements `dialect.Dialect`: one message, as events that build it up, or whole."""

    __slots__ = ("_blocks", "_request", "_request_id", "_tier")

    stream_headers = sse.HEADERS
    comment = event("ping", {})

    def __init__(self, request_id: str, request: Request | None) -> None:
        """`request` is None for what was refused before it was understood."""
        self._request_id = request_id
        self._request = request
        self._blocks = Blocks()
        self._tier = ""

    def headers(self, served: Served) -> Headers:
        own = [(b"request-id", served.request_id.encode())]
        if served.allowances is None or self._request is None:
            return own
        return own + anthropic_limits(served.allowances, self._request.arrived_us)

    def begin(self, served: Served) -> bytes:
        """The message before its first token. What its prompt takes is an estimate; the last events count it."""
        self._tier = _TIERS[served.served]
        message = _message(served, [], None, None, self._usage(Usage(input=served.prompt_tokens)))
        return event("message_start", {"message": message})

    def events(self, events: bytes) -> bytes:
        add = self._blocks.add
        return b"".join([add(choice, choice.delta) for choice in chat_events.choices(events)])

    def continued(self) -> None:
        """Nothing of a message tells one upstream call from another."""

    def cut(self, choices: Sequence[int]) -> bytes:
        self._blocks.cut()
        return b""

    def end(self, usage: Usage) -> bytes:
        blocks = self._blocks
        last = blocks.close()
        delta = {"stop_reason": blocks.stop_reason, "stop_sequence": blocks.matched}
        return last + event("message_delta", {"delta": delta, "usage": self._usage(usage)}) + _STOP

    def whole(self, served: Served, body: bytes, usage: Usage) -> tuple[Headers, bytes]:
        self._tier = _TIERS[served.served]
        blocks = self._blocks
        choice = chat_events.whole(body)
        blocks.add(choice, choice.message)
        blocks.close()
        message = _message(served, blocks.content, blocks.stop_reason, blocks.matched, self._usage(usage))
        return [], msgspec.json.encode(message)

    def refused(self, refusal: Refusal, served: Served | None) -> tuple[int, Headers, bytes]:
        status, body = anthropic_error(refusal, self._request_id)
        return status, [] if served is not None else [(b"request-id", self._request_id.encode())], body

    def broken(self, refusal: Refusal, served: Served | None) -> bytes:
        """The event that ends a stream that is not whole; no `message_stop` follows it."""
        return b"event: error\ndata: %b\n\n" % anthropic_error(refusal, self._request_id)[1]

    def _usage(self, usage: Usage) -> dict[str, Any]:
        """`input_tokens` has the cached ones not in it."""
        return {
            "input_tokens": usage.input,
            "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
            "cache_read_input_tokens": usage.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": usage.cache_write_5m,
                "ephemeral_1h_input_tokens": usage.cache_write_1h,
            },
            "output_tokens": usage.output,
            "service_tier": self._tier,
        }


def message_id(request_id: str) -> str:
    """A message is named after the request that made it."""
    return f"msg_{request_id.removeprefix('req_')}"


def _message(
    served: Served,
    content: Sequence[Mapping[str, Any]],
    stop_reason: str | None,
    stop_sequence: str | None,
    usage: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "id": message_id(served.request_id),
        "type": "message",
        "role": "assistant",
        "model": served.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage,
    }

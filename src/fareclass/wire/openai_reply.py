"""Answers and refusals of the OpenAI API's chat, completions and embeddings (R4)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.flow.reply import Served
from fareclass.wire import sse
from fareclass.wire.errors import Headers, openai_error
from fareclass.wire.limit_headers import openai_limits

_CHUNK_OBJECTS: Mapping[str, str] = MappingProxyType(
    {"/chat/completions": "chat.completion.chunk", "/completions": "text_completion"}
)


class OpenAIDialect:
    """Implements `dialect.Dialect`: the engine speaks it already, so its bytes are stamped, not made anew."""

    __slots__ = ("_request", "_stamp")

    stream_headers = sse.HEADERS
    comment = sse.COMMENT

    def __init__(self, request: Request | None) -> None:
        """`request` is None for what was refused before it was understood."""
        self._request = request
        self._stamp: sse.Stamp | None = None

    def headers(self, served: Served) -> Headers:
        return [] if served.allowances is None else openai_limits(served.allowances)

    def begin(self, served: Served) -> bytes:
        request = self._asked()
        first = {
            "id": served.request_id,
            "object": _CHUNK_OBJECTS.get(request.path, "chat.completion.chunk"),
            "created": request.arrived_us // 1_000_000,
        }
        self._stamp = sse.Stamp(tier_word(served, request), served.model, first)
        return b""

    def events(self, events: bytes) -> bytes:
        return self._open().stamp(events)

    def continued(self) -> None:
        self._open().continued()

    def cut(self, choices: Sequence[int]) -> bytes:
        return self._open().cut(choices)

    def end(self, usage: Usage) -> bytes:
        """The usage, if `stream_options.include_usage` asked for it, and `[DONE]`."""
        options = self._asked().body.get("stream_options")
        wanted = options is not None and options.get("include_usage")
        return self._open().usage(usage) + sse.DONE if wanted else sse.DONE

    def whole(self, served: Served, body: bytes, usage: Usage) -> tuple[Headers, bytes]:
        return [], sse.stamp_body(body, tier_word(served, self._asked()), served.model)

    def refused(self, refusal: Refusal, served: Served | None) -> tuple[int, Headers, bytes]:
        status, body = openai_error(refusal, None if served is None else served.served)
        return status, [], body

    def broken(self, refusal: Refusal, served: Served | None) -> bytes:
        return sse.error_event(self.refused(refusal, served)[2])

    def _asked(self) -> Request:
        if self._request is None:
            raise ValueError("an answer needs the request that it answers")
        return self._request

    def _open(self) -> sse.Stamp:
        if self._stamp is None:
            raise ValueError("`begin` comes before everything else of a stream")
        return self._stamp


def tier_word(served: Served, request: Request) -> str:
    """The served tier in OpenAI's vocabulary (R4): `reserved` is `scale` there, unless the caller said `reserved`."""
    if served.served is Tier.RESERVED and request.tier_word != "reserved":
        return "scale"
    return served.served.word

"""The caller's side of one OpenAI request: how its answer or refusal goes out (R4, R6)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import quote

from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.usage import Usage
from fareclass.flow.reply import Served
from fareclass.wire import sse
from fareclass.wire.arrival import Send
from fareclass.wire.errors import Headers, openai_error, retry_headers
from fareclass.wire.limit_headers import openai_limits

_JSON = (b"content-type", b"application/json")
_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_WORDS: Mapping[Tier, bytes] = MappingProxyType({tier: tier.word.encode() for tier in TIERS})
_DROPPED_NAMES = 16
_DROPPED_CHARS = 64
_CHUNK_OBJECTS: Mapping[str, str] = MappingProxyType(
    {"/chat/completions": "chat.completion.chunk", "/completions": "text_completion"}
)


class OpenAIReply:
    """Implements `flow.reply.Reply`.

    The rest is for the watcher of the connection: `finished` and `gone`, and how many pieces
    were `handed` to the server and `taken` by it, which waits for a caller who does not read.
    """

    __slots__ = ("_request", "_request_id", "_send", "_stamp", "finished", "gone", "handed", "started", "taken")

    def __init__(self, send: Send, request_id: str, request: Request | None = None) -> None:
        """`request` is None for what was refused before it was understood."""
        self._send = send
        self._request_id = request_id
        self._request = request
        self._stamp: sse.Stamp | None = None
        self.started = False
        self.finished = False
        self.gone = False
        self.handed = 0
        self.taken = 0

    async def start(self, served: Served) -> None:
        """Status and headers of a stream."""
        request = self._asked()
        first = {
            "id": served.request_id,
            "object": _CHUNK_OBJECTS.get(request.path, "chat.completion.chunk"),
            "created": request.arrived_us // 1_000_000,
        }
        self._stamp = sse.Stamp(_tier_word(served, request), served.model, first)
        self._check()
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM + _served_headers(served)})

    async def relay(self, events: bytes) -> None:
        """Whole events of the engine, each with the served tier put in."""
        stamp = self._stamp  # from here on as `_more`, without a coroutine that each token would pay for
        if stamp is None or self.gone:
            self._check()
            stamp = self._open()
        self.handed += 1
        await self._send({"type": "http.response.body", "body": stamp.stamp(events), "more_body": True})
        self.taken += 1

    def continued(self) -> None:
        """The next events come from another upstream call; the caller shall not see that (R11)."""
        self._open().continued()

    async def cut(self, choices: Sequence[int]) -> None:
        """Their last chunk."""
        await self._more(self._open().cut(choices))

    async def comment(self) -> None:
        """A comment line, which clients skip."""
        await self._more(sse.COMMENT)

    async def end(self, usage: Usage) -> None:
        """The usage, if `stream_options.include_usage` asked for it, and `[DONE]`."""
        options = self._asked().body.get("stream_options")
        wanted = options is not None and options.get("include_usage")
        await self._more(self._open().usage(usage) + sse.DONE if wanted else sse.DONE, last=True)

    async def whole(self, served: Served, body: bytes) -> None:
        """An answer in one piece."""
        body = sse.stamp_body(body, _tier_word(served, self._asked()), served.model)
        await self._respond(200, _served_headers(served), body)

    async def refuse(self, refusal: Refusal, served: Served | None = None) -> None:
        """As a response, or, once a byte has left, as an error event that ends the stream."""
        status, body = openai_error(refusal, None if served is None else served.served)
        if self.started:
            await self._more(sse.error_event(body), last=True)
            return
        headers = [(b"x-request-id", self._request_id.encode())] if served is None else _served_headers(served)
        await self._respond(status, headers + retry_headers(refusal), body)

    async def _respond(self, status: int, headers: Headers, body: bytes) -> None:
        self._check()
        self.started = True
        headers = [_JSON, (b"content-length", b"%d" % len(body)), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self.handed += 1
        await self._send({"type": "http.response.body", "body": body})
        self.taken += 1
        self.finished = True

    async def _more(self, body: bytes, *, last: bool = False) -> None:
        self._check()
        self.handed += 1
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})
        self.taken += 1
        self.finished = last

    def _check(self) -> None:
        if self.gone:
            raise ConnectionResetError("the caller has hung up")

    def _asked(self) -> Request:
        if self._request is None:
            raise ValueError("an answer needs the request that it answers")
        return self._request

    def _open(self) -> sse.Stamp:
        if self._stamp is None:
            raise ValueError("`start` comes before everything else of a stream")
        return self._stamp


def _tier_word(served: Served, request: Request) -> str:
    """The served tier in OpenAI's vocabulary (R4): `reserved` is `scale` there, unless the caller said `reserved`."""
    if served.served is Tier.RESERVED and request.tier_word != "reserved":
        return "scale"
    return served.served.word


def _served_headers(served: Served) -> Headers:
    headers = [
        (b"x-request-id", served.request_id.encode()),
        (b"x-fareclass-requested-tier", _WORDS[served.requested]),
        (b"x-fareclass-served-tier", _WORDS[served.served]),
        (b"x-fareclass-queue-ms", b"%d" % served.queue_ms),
    ]
    if served.replica:
        headers.append((b"x-fareclass-replica", served.replica.encode()))
    if served.spilled:
        headers.append((b"x-fareclass-spilled", served.spilled.encode()))
    if served.escalated:
        headers.append((b"x-fareclass-escalated", served.escalated.encode()))
    if served.allowances is not None:
        headers += openai_limits(served.allowances)
    if served.dropped:
        headers.append((b"x-fareclass-dropped", _dropped(served.dropped)))
    return headers


def _dropped(names: tuple[str, ...]) -> bytes:
    """Callers choose these names, so they are quoted and bounded."""
    shown = [quote(name, safe="", errors="replace")[:_DROPPED_CHARS] for name in names[:_DROPPED_NAMES]]
    if len(names) > _DROPPED_NAMES:
        shown.append(f"+{len(names) - _DROPPED_NAMES}")
    return ",".join(shown).encode()

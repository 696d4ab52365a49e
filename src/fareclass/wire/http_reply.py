"""The caller's side of one request over HTTP: how its answer or refusal goes out, whatever the API (R4, R6)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import quote

from fareclass.core.outcomes import Refusal
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.usage import Usage
from fareclass.flow.reply import Served, Translated
from fareclass.wire.arrival import Message, Send
from fareclass.wire.dialect import Dialect
from fareclass.wire.errors import Headers, retry_headers

_JSON = (b"content-type", b"application/json")
_WORDS: Mapping[Tier, bytes] = MappingProxyType({tier: tier.word.encode() for tier in TIERS})
_SAFE = "/:@+ "
_DROPPED_NAMES = 16
_DROPPED_CHARS = 64


class HttpReply:
    """Implements `flow.reply.Reply` with the words of a `Dialect`.

    The rest is for the watcher of the connection: `finished` and `gone`, and how many pieces
    were `handed` to the server and `taken` by it, which waits for a caller who does not read.
    """

    __slots__ = (
        "_dialect", "_request_id", "_send", "billed", "finished", "gone", "handed", "refused", "started", "taken"
    )  # fmt: skip

    def __init__(self, send: Send, request_id: str, dialect: Dialect) -> None:
        self._send = send
        self._request_id = request_id
        self._dialect = dialect
        self.started = False
        self.finished = False
        self.gone = False
        self.billed = False
        self.refused = False
        self.handed = 0
        self.taken = 0

    async def start(self, served: Served) -> None:
        """Status, headers and beginning of a stream."""
        self._check()
        dialect = self._dialect
        beginning = dialect.begin(served)
        headers = [*dialect.stream_headers, *_served_headers(served), *dialect.headers(served)]
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if beginning:
            await self._more(beginning)

    async def relay(self, events: bytes) -> None:
        """Whole events of the engine, in the words of this API."""
        if self.gone:  # from here on as `_more`, without a coroutine that each token would pay for
            self._check()
        said = self._dialect.events(events)
        if said:
            self.handed += 1
            await self._send({"type": "http.response.body", "body": said, "more_body": True})
            self.taken += 1

    def continued(self) -> None:
        """The next events come from another upstream call; the caller shall not see that (R11)."""
        self._dialect.continued()

    async def cut(self, choices: Sequence[int]) -> None:
        """Their last chunk."""
        if said := self._dialect.cut(choices):
            await self._more(said)

    async def comment(self) -> None:
        """What keeps a silent stream alive."""
        if self._dialect.comment:
            await self._more(self._dialect.comment)

    async def end(self, usage: Usage) -> None:
        """The last events of a stream."""
        await self._more(self._dialect.end(usage), last=True)

    def translated(self, served: Served, body: bytes, usage: Usage) -> Translated:
        """An answer in one piece, in the words of this API."""
        return self._dialect.whole(served, body, usage)

    async def whole(self, served: Served, answer: Translated) -> None:
        """The same, sent."""
        headers, body = answer
        await self._respond(200, [*_served_headers(served), *self._dialect.headers(served), *headers], body)

    async def refuse(self, refusal: Refusal, served: Served | None = None) -> None:
        """As a response, or, once a byte has left, as the event that ends the stream."""
        dialect = self._dialect
        self.refused = True
        if self.started:
            await self._more(dialect.broken(refusal, served), last=True)
            return
        status, own, body = dialect.refused(refusal, served)
        if served is None:
            headers = [(b"x-request-id", self._request_id.encode())]
        else:
            headers = [*_served_headers(served), *dialect.headers(served)]
        await self._respond(status, [*headers, *own, *retry_headers(refusal)], body)

    async def pass_on(self, message: Message) -> None:
        """One ASGI message of a response that was made elsewhere."""
        self._check()
        self.started = True
        self.handed += 1
        await self._send(message)
        self.taken += 1
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)

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
    if served.route:
        headers.append((b"x-fareclass-route", served.route.encode()))
        headers.append((b"x-fareclass-model", quote(served.model, safe=_SAFE).encode()))
    if served.missed:
        headers.append((b"x-fareclass-route-missed", ",".join(served.missed).encode()))
    if served.dropped:
        headers.append((b"x-fareclass-dropped", _dropped(served.dropped)))
    return headers


def _dropped(names: tuple[str, ...]) -> bytes:
    """Callers choose these names, so they are quoted and bounded."""
    shown = [quote(name, safe="", errors="replace")[:_DROPPED_CHARS] for name in names[:_DROPPED_NAMES]]
    if len(names) > _DROPPED_NAMES:
        shown.append(f"+{len(names) - _DROPPED_NAMES}")
    return ",".join(shown).encode()

"""The data plane's HTTP face: a bare ASGI application, since a framework would cost more than the rest of a request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, Snapshot
from fareclass.deadlines import Deadlines
from fareclass.flow.reply import Reply
from fareclass.policy.identity import authenticate
from fareclass.wire.anthropic_models import model_info, models_page, route_model
from fareclass.wire.anthropic_reply import AnthropicDialect
from fareclass.wire.arrival import Arrival, CallerGone, Message, Receive, Send, arrive, read_body
from fareclass.wire.callers import Callers
from fareclass.wire.dialect import Endpoint
from fareclass.wire.http_reply import HttpReply
from fareclass.wire.openai_reply import OpenAIDialect
from fareclass.wire.repeats import Repeat, Repeats, repeat_of
from fareclass.wire.responses import ENDPOINT as RESPONSES
from fareclass.wire.responses import asks_background
from fareclass.wire.routes import find
from fareclass.wire.signed import read_signed

ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]
_log = logging.getLogger(__name__)
_MODELS = "/v1/models"
ANTHROPIC = b"anthropic-version"
"""A header that only clients of Anthropic's API send."""


class Walk(Protocol):
    """What a request goes through behind the wire."""

    async def run(self, request: Request, reply: Reply) -> None:
        """Answer or refuse the request by `reply`. Raises nothing but `CancelledError`."""

    def check(self, request: Request) -> None:
        """Raises `Refusal` for what `run` would refuse whenever its turn came."""

    def rejected(self, arrival: Arrival | Request, endpoint: str, key: Key | None, refusal: Refusal) -> None:
        """A request ended before its walk: its one `Finished` event is still due (R6)."""


class Conversations(Protocol):
    """What responses need that go on from stored ones, or run in the background."""

    async def endpoint(self, raw: bytes, key: Key) -> Endpoint:
        """The endpoint for this body of this key's project; raises `Refusal`."""

    async def begin(self, request: Request, reply: HttpReply) -> None:
        """Promise an answer; raises `Refusal`."""


class DataPlane:
    """Serves generating calls and the health checks; what is for operators goes to `fallback`, the rest to `objects`.

    `snapshot` returns the Snapshot in force. `ready` returns why the gateway can't serve, or None. Without
    `conversations` no response is stored.
    """

    def __init__(
        self,
        walk: Walk,
        *,
        snapshot: Callable[[], Snapshot],
        ready: Callable[[], str | None],
        objects: ASGIApp,
        fallback: ASGIApp,
        conversations: Conversations | None = None,
    ) -> None:
        self._walk = walk
        self._snapshot = snapshot
        self._ready = ready
        self._objects = objects
        self._fallback = fallback
        self._deadlines = Deadlines()
        self._callers = Callers(self._deadlines)
        self._repeats = Repeats(self._run, self._callers)
        self._conversations = conversations

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """One request, or whatever else an ASGI server has to say (which `fallback` hears).

        A plain function: each coroutine that a stream's task is inside of costs every token half a microsecond.
        """
        path: str = scope["path"] if scope["type"] == "http" else ""
        endpoint = find(scope) if path else None
        if endpoint is not None and scope["method"] == "POST":
            return self._generate(endpoint, scope, receive, send)
        if not path or path in {"/metrics", "/console"} or path.startswith("/admin/"):
            return self._fallback(scope, receive, send)
        if path == "/healthz":
            return _send_json(send, 200, {"status": "ok"})
        if path == "/readyz":
            reason = self._ready()
            shown = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
            return _send_json(send, 200 if reason is None else 503, shown)
        if endpoint is not None or path == _MODELS or path.startswith(_MODELS + "/"):
            return self._look_up(path, scope, receive, send)
        return self._objects(scope, receive, send)

    async def close(self) -> None:
        """End what goes on for callers who may come back. Call it once the server has ended its requests."""
        await self._repeats.close()

    async def _generate(self, endpoint: Endpoint, scope: Message, receive: Receive, send: Send) -> None:
        arrival = arrive(scope["headers"])
        understood = await self._understand(endpoint, arrival, scope, receive, send)
        if understood is None:
            return
        endpoint, request, repeat = understood
        dialect = endpoint.dialect(arrival, request)
        if repeat is not None:
            await self._repeats.answer(request, repeat, dialect, receive, send)
            return
        reply = HttpReply(send, request.id, dialect)
        self._callers.enter(receive, reply)
        try:
            await self._run(request, reply)
        except asyncio.CancelledError:
            if not reply.gone:
                raise
        finally:
            self._callers.leave(reply)

    def _run(self, request: Request, reply: HttpReply) -> Awaitable[None]:
        """No coroutine of its own, as in `__call__`."""
        if self._conversations is not None and asks_background(request):
            return self._promise(self._conversations, request, reply)
        return self._walk.run(request, reply)

    async def _promise(self, conversations: Conversations, request: Request, reply: HttpReply) -> None:
        with suppress(ConnectionError):  # the work goes on for a caller who comes back
            try:
                self._walk.check(request)
                await conversations.begin(request, reply)
            except Refusal as error:
                refusal = error.alone()
                self._walk.rejected(request, request.endpoint, request.key, refusal)
                await reply.refuse(refusal)

    async def _understand(
        self, endpoint: Endpoint, arrival: Arrival, scope: Message, receive: Receive, send: Send
    ) -> tuple[Endpoint, Request, Repeat | None] | None:
        """The request, or None where it was refused. The key comes first, so that no stranger's body is kept."""
        key: Key | None = None
        try:
            if arrival.signed:
                key, raw = await read_signed(self._snapshot(), scope, receive, arrival, self._deadlines)
            else:
                key = authenticate(self._snapshot(), arrival.token)
                raw = await read_body(receive, arrival, self._deadlines)
            if endpoint is RESPONSES and self._conversations is not None:
                endpoint = await self._conversations.endpoint(raw, key)
            request = endpoint.parse(raw, arrival, key)
            repeat = None if arrival.repeat_key is None else repeat_of(arrival.repeat_key, request, raw)
            return endpoint, request, repeat
        except CallerGone:
            gone = Refusal(Outcome.CANCELLED, "The caller hung up before its request was whole.")
            self._walk.rejected(arrival, endpoint.name, key, gone)
            return None
        except Refusal as error:
            refusal = error.alone()
        except Exception:  # noqa: BLE001 - a fault of ours must reach caller and log, and end as one outcome
            _log.exception("reading a request failed", extra={"request_id": arrival.id})
            refusal = Refusal(Outcome.INTERNAL, f"The gateway failed to read the request ({arrival.id}).")
        self._walk.rejected(arrival, endpoint.name, key, refusal)
        await HttpReply(send, arrival.id, endpoint.dialect(arrival, None)).refuse(refusal)
        return None

    async def _look_up(self, path: str, scope: Message, receive: Receive, send: Send) -> None:
        """Models, in the form of the API that the caller speaks. That a path takes other methods is told to anybody."""
        arrival = arrive(scope["headers"])
        endpoint = find(scope)
        theirs = any(name == ANTHROPIC for name, _ in scope["headers"])
        own = AnthropicDialect(arrival.id, None) if theirs else OpenAIDialect(None)
        dialect = own if endpoint is None else endpoint.dialect(arrival, None)
        try:
            if endpoint is not None or scope["method"] != "GET":
                allowed = "GET" if endpoint is None else "POST"
                raise Refusal(Outcome.INVALID, f"`{path[:200]}` takes only {allowed}.", code="method_not_allowed")
            snapshot = self._snapshot()
            if arrival.signed:
                await read_signed(snapshot, scope, receive, arrival, self._deadlines)
            else:
                authenticate(snapshot, arrival.token)
            await _send_json(send, 200, _models(snapshot, path.removeprefix(_MODELS).removeprefix("/"), theirs))
        except CallerGone:
            return
        except Refusal as refusal:
            await HttpReply(send, arrival.id, dialect).refuse(refusal)


def _models(snapshot: Snapshot, name: str, theirs: bool) -> dict[str, Any]:
    if not name:
        every = [
            *snapshot.models.values(),
            *(route_model(route, snapshot.models) for route in snapshot.routes.values()),
        ]
        return models_page(every) if theirs else {"object": "list", "data": [_model(model) for model in every]}
    model = snapshot.models.get(name)
    if model is None and (route := snapshot.routes.get(name)) is not None:
        model = route_model(route, snapshot.models)
    if model is None:
        raise Refusal(Outcome.NOT_FOUND, f"The model `{name[:200]}` does not exist.", param="model")
    return model_info(model) if theirs else _model(model)


def _model(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "fareclass"}


async def _send_json(send: Send, status: int, value: dict[str, Any]) -> None:
    body = msgspec.json.encode(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

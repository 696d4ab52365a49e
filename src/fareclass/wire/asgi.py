"""The data plane's HTTP face: a bare ASGI application, since a framework would cost more than the rest of a request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Model, Snapshot
from fareclass.deadlines import Deadlines
from fareclass.flow.reply import Reply
from fareclass.policy.identity import authenticate
from fareclass.wire.arrival import Arrival, CallerGone, Message, Receive, Send, arrive, read_body
from fareclass.wire.callers import Callers
from fareclass.wire.dialect import Endpoint
from fareclass.wire.http_reply import HttpReply
from fareclass.wire.openai_reply import OpenAIDialect
from fareclass.wire.routes import find

ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]
_log = logging.getLogger(__name__)
_MODELS = "/v1/models"
_WHERE = "The OpenAI API begins at `/v1`, as in POST `/v1/chat/completions`; the control plane at `/admin/v1`."


class Walk(Protocol):
    """What a request goes through behind the wire."""

    async def run(self, request: Request, reply: Reply) -> None:
        """Answer or refuse the request by `reply`. Raises nothing but `CancelledError`."""

    def rejected(self, arrival: Arrival, endpoint: str, key: Key | None, refusal: Refusal) -> None:
        """A request ended before it was understood: its one `Finished` event is still due (R6)."""


class DataPlane:
    """Serves the OpenAI API and the health checks; what is for operators goes to `fallback`.

    `snapshot` returns the Snapshot in force. `ready` returns why the gateway can't serve, or None.
    """

    def __init__(
        self, walk: Walk, *, snapshot: Callable[[], Snapshot], ready: Callable[[], str | None], fallback: ASGIApp
    ) -> None:
        self._walk = walk
        self._snapshot = snapshot
        self._ready = ready
        self._fallback = fallback
        self._deadlines = Deadlines()
        self._callers = Callers(self._deadlines)

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """One request, or whatever else an ASGI server has to say (which `fallback` hears).

        A plain function: each coroutine that a stream's task is inside of costs every token half a microsecond.
        """
        path: str = scope["path"] if scope["type"] == "http" else ""
        endpoint = find(scope) if path else None
        if endpoint is not None and scope["method"] == "POST":
            return self._generate(endpoint, scope, receive, send)
        if not path or path == "/metrics" or path.startswith("/admin/"):
            return self._fallback(scope, receive, send)
        if path == "/healthz":
            return _send_json(send, 200, {"status": "ok"})
        if path == "/readyz":
            reason = self._ready()
            shown = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
            return _send_json(send, 200 if reason is None else 503, shown)
        return self._look_up(path, scope, send)

    async def _generate(self, endpoint: Endpoint, scope: Message, receive: Receive, send: Send) -> None:
        arrival = arrive(scope["headers"])
        request = await self._understand(endpoint, arrival, receive, send)
        if request is None:
            return
        reply = HttpReply(send, request.id, endpoint.dialect(arrival, request))
        self._callers.enter(receive, reply)
        try:
            await self._walk.run(request, reply)
        except asyncio.CancelledError:
            if not reply.gone:
                raise
        finally:
            self._callers.leave(reply)

    async def _understand(self, endpoint: Endpoint, arrival: Arrival, receive: Receive, send: Send) -> Request | None:
        """The request, or None where it was refused. The key comes first, so that no stranger's body is read."""
        key: Key | None = None
        try:
            key = authenticate(self._snapshot(), arrival.token)
            return endpoint.parse(await read_body(receive, arrival, self._deadlines), arrival, key)
        except CallerGone:
            gone = Refusal(Outcome.CANCELLED, "The caller hung up before its request was whole.")
            self._walk.rejected(arrival, endpoint.name, key, gone)
            return None
        except Refusal as error:
            refusal = error
        except Exception:  # noqa: BLE001 - a fault of ours must reach caller and log, and end as one outcome
            _log.exception("reading a request failed", extra={"request_id": arrival.id})
            refusal = Refusal(Outcome.INTERNAL, f"The gateway failed to read the request ({arrival.id}).")
        self._walk.rejected(arrival, endpoint.name, key, refusal)
        await HttpReply(send, arrival.id, endpoint.dialect(arrival, None)).refuse(refusal)
        return None

    async def _look_up(self, path: str, scope: Message, send: Send) -> None:
        """Models, and what is not there: an address says so to anybody, so that a wrong one is told from a wrong key."""
        arrival = arrive(scope["headers"])
        try:
            generates = find(scope) is not None
            if not (generates or path == _MODELS or path.startswith(_MODELS + "/")):
                raise Refusal(Outcome.NOT_FOUND, f"There is no `{path[:200]}` here. {_WHERE}", code="unknown_url")
            if generates or scope["method"] != "GET":
                allowed = "POST" if generates else "GET"
                raise Refusal(Outcome.INVALID, f"`{path[:200]}` takes only {allowed}.", code="method_not_allowed")
            snapshot = self._snapshot()
            authenticate(snapshot, arrival.token)
            await _send_json(send, 200, _models(snapshot, path.removeprefix(_MODELS).removeprefix("/")))
        except Refusal as refusal:
            await HttpReply(send, arrival.id, OpenAIDialect(None)).refuse(refusal)


def _models(snapshot: Snapshot, name: str) -> dict[str, Any]:
    if not name:
        return {"object": "list", "data": [_model(model) for model in snapshot.models.values()]}
    model = snapshot.models.get(name)
    if model is None:
        raise Refusal(Outcome.NOT_FOUND, f"The model `{name[:200]}` does not exist.", param="model")
    return _model(model)


def _model(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "fareclass"}


async def _send_json(send: Send, status: int, value: dict[str, Any]) -> None:
    body = msgspec.json.encode(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

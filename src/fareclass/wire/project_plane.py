"""A project's own objects over HTTP (files, batches, stored responses), each call behind one of its keys (R51)."""

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from fareclass.core.limits import CALLER_STALL_S
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Snapshot
from fareclass.deadlines import Deadlines
from fareclass.policy.identity import authenticate
from fareclass.wire.arrival import Arrival, CallerGone, arrive, check_encoding, read_body
from fareclass.wire.asgi import ANTHROPIC
from fareclass.wire.bedrock_reply import error_headers
from fareclass.wire.errors import Headers, anthropic_error, bedrock_error, openai_error, retry_headers
from fareclass.wire.json_checks import decode_object
from fareclass.wire.openai import invalid_field
from fareclass.wire.signed import read_signed

T = TypeVar("T")
Handler = Callable[["Call"], Awaitable[Response]]
Refused = Callable[[Refusal, str], tuple[int, bytes]]
_RETRY_MS = 2_000
_REQUEST_ID = ("x-request-id", "request-id")
"""As OpenAI's clients read it, and Anthropic's."""
_LEFT_OUT = re.compile(r"/(?:batches|chat|completions|embeddings|files|messages|models|responses)(?:/.*)?")
"""Addresses that would be right behind `/v1`."""
_SENT_ONCE = b"amz-sdk-invocation-id"
"""A header that every AWS SDK sends, with a signature or a bearer token."""
_LIBRARY = b"x-stainless-lang"
"""A header of OpenAI's and Anthropic's SDKs: signed by them too, a call is of their own API unless it is of a model."""

_log = logging.getLogger(__name__)


class Call(NamedTuple):
    """One call of a caller who has shown a key: whose objects it may see is `key.project`.

    `raw` is its body, where that had to be read to know whose call it is; `snapshot` is what was in force as it came.
    """

    snapshot: Snapshot
    key: Key
    request: Request
    arrival: Arrival
    deadlines: Deadlines
    raw: bytes | None

    def part(self, name: str) -> str:
        """A part of the path that names an object.

        Raises:
            Refusal: `not_found`: it holds what no name can, and no database takes.
        """
        part: str = self.request.path_params[name]
        if not part.isprintable():
            raise not_there("What the path names")
        return part

    async def body(self) -> bytes:
        """The whole body, within bounds.

        Raises:
            Refusal: `invalid`: too large, compressed or too slow.
        """
        if self.raw is not None:
            return self.raw
        return await read_body(self.request.receive, self.arrival, self.deadlines)

    @property
    def base_url(self) -> str:
        """Where the caller found us, as far as it shows: behind a proxy that does TLS, this says so."""
        url = self.request.url
        scheme = "https" if self.request.headers.get("x-forwarded-proto") == "https" else url.scheme
        return f"{scheme}://{url.netloc}"

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it comes, however much it is.

        Raises:
            Refusal: `invalid`: it is compressed.
        """
        check_encoding(self.arrival)
        if self.raw is not None:
            yield self.raw
            return
        async for part in self.request.stream():
            if part:
                yield part

    async def read(self, kind: type[T]) -> T:
        """The JSON body as `kind`.

        Raises:
            Refusal: `invalid`: no JSON object of that form; `param` is the path of the field.
        """
        fields = decode_object(await self.body())
        try:
            return msgspec.convert(fields, kind)
        except msgspec.ValidationError as error:
            raise invalid_field(str(error)) from None

    def query(self, kind: type[T]) -> T:
        """The query parameters as `kind`.

        Raises:
            Refusal: `invalid`: one has the wrong form, or unprintable characters.
        """
        given = dict(self.request.query_params)
        for name, value in given.items():
            if not value.isprintable():
                raise Refusal(Outcome.INVALID, f"`{name}` holds unprintable characters.", param=name)
        try:
            return msgspec.convert(given, kind, strict=False)
        except msgspec.ValidationError as error:
            raise invalid_field(str(error)) from None


class Streamed(StreamingResponse):
    """An answer as it comes, out of a loop or out of threads; who reads nothing of it for long is taken for gone (R15)."""

    def __init__(
        self, parts: AsyncIterator[bytes] | Iterator[bytes], headers: Mapping[str, str], deadlines: Deadlines
    ) -> None:
        super().__init__(parts, headers=headers)
        self._deadlines = deadlines

    async def stream_response(self, send: Send) -> None:
        with suppress(TimeoutError):
            await super().stream_response(_patient(send, self._deadlines))


class StreamedFile(FileResponse):
    """What a file holds, or the ranges of it that were asked for; the same."""

    def __init__(self, path: Path, deadlines: Deadlines) -> None:
        super().__init__(path, media_type="application/octet-stream")
        self._deadlines = deadlines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(TimeoutError):
            await super().__call__(scope, receive, _patient(send, self._deadlines))


def _patient(send: Send, deadlines: Deadlines) -> Send:
    async def patient(message: Message) -> None:
        with deadlines.within(CALLER_STALL_S):
            await send(message)

    return patient


def _openai_refused(refusal: Refusal, _request_id: str) -> tuple[int, bytes]:
    return openai_error(refusal)


def bedrock_refused(refusal: Refusal, _request_id: str) -> tuple[int, bytes]:
    """Status and body of a refusal in Bedrock's form."""
    status, _, body = bedrock_error(refusal)
    return status, body


def _no_headers(_refusal: Refusal, _request_id: str) -> Headers:
    return []


class _Api(NamedTuple):
    """What a caller takes this gateway for: where that is, and how it says no."""

    where: str
    refused: Refused
    error_headers: Callable[[Refusal, str], Headers] = _no_headers


_OPENAI = _Api(
    "The OpenAI API begins at `/v1`, as in POST `/v1/chat/completions`; the control plane at `/admin/v1`.",
    _openai_refused,
)
_ANTHROPIC = _Api("Anthropic's API begins at `/v1`, as in POST `/v1/messages`.", anthropic_error)
_BEDROCK = _Api(
    "Of Bedrock's API there are Converse, InvokeModel and CountTokens of a `/model/{modelId}`, "
    "and model-invocation jobs at `/model-invocation-job`.",
    bedrock_refused,
    error_headers,
)


class Operation(NamedTuple):
    """One command on objects of a project: where it is, what does it, and how its API says no, in body and headers."""

    method: str
    path: str
    handler: Handler
    refused: Refused = _openai_refused
    error_headers: Callable[[Refusal, str], Headers] = _no_headers


def project_app(snapshot: Callable[[], Snapshot], operations: Sequence[Operation]) -> Starlette:
    """The ASGI application of these; whatever else it is asked for is not there."""
    deadlines = Deadlines()
    return Starlette(
        routes=[
            Route(operation.path, _guarded(operation, snapshot, deadlines), methods=[operation.method])
            for operation in operations
        ],
        exception_handlers={HTTPException: _no_route},
    )


def not_there(what: str) -> Refusal:
    """An object that is none, or another project's: nobody can tell which (R51)."""
    return Refusal(Outcome.NOT_FOUND, f"{what} does not exist in this project.", code="not_found")


def json_answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def moment(us: int | None) -> str | None:
    """A time as JSON has it, from microseconds since the epoch."""
    return None if us is None else datetime.fromtimestamp(us / 1e6, UTC).isoformat().replace("+00:00", "Z")


def _guarded(
    operation: Operation, snapshot: Callable[[], Snapshot], deadlines: Deadlines
) -> Callable[[Request], Awaitable[Response]]:
    """The handler behind a key; every error becomes a refusal of the operation's API."""

    async def endpoint(request: Request) -> Response:
        arrival = arrive(request.scope["headers"])
        try:
            call = await _identified(snapshot(), request, arrival, deadlines)
            response = await operation.handler(call)
            for name in _REQUEST_ID:
                response.headers.setdefault(name, arrival.id)
            return response
        except (CallerGone, ClientDisconnect):
            refusal = Refusal(Outcome.CANCELLED, "The caller hung up before its request was whole.")
        except Refusal as error:
            refusal = error.alone()
        except SQLAlchemyError as error:
            _log.error("the database failed a call", extra={"request_id": arrival.id, "cause": str(error)})
            refusal = Refusal(Outcome.SHED, "The database can't be used at the moment.", retry_after_ms=_RETRY_MS)
        except Exception:  # noqa: BLE001 - a fault of ours must reach caller and log
            _log.exception("a call failed inside the gateway", extra={"request_id": arrival.id})
            refusal = Refusal(Outcome.INTERNAL, f"The gateway failed; its operator finds it as {arrival.id}.")
        return _refuse(refusal, operation, arrival.id)

    return endpoint


async def _identified(snapshot: Snapshot, request: Request, arrival: Arrival, deadlines: Deadlines) -> Call:
    """Raises:
    Refusal: `unauthenticated`: there is no key in force that proves it.
    """
    if not arrival.signed:
        return Call(snapshot, authenticate(snapshot, arrival.token), request, arrival, deadlines, None)
    key, raw = await read_signed(snapshot, request.scope, request.receive, arrival, deadlines)
    return Call(snapshot, key, request, arrival, deadlines, raw)


def _refuse(refusal: Refusal, api: Operation | _Api, request_id: str) -> Response:
    status, body = api.refused(refusal, request_id)
    response = Response(body, status, media_type="application/json")
    for header in _REQUEST_ID:
        response.headers[header] = request_id
    for name, value in [*retry_headers(refusal), *api.error_headers(refusal, request_id)]:
        response.headers[name.decode()] = value.decode()
    return response


async def _no_route(request: Request, error: Exception) -> Response:
    """An address says so to anybody, so that a wrong one is told from a wrong key."""
    assert isinstance(error, HTTPException)
    arrival = arrive(request.scope["headers"])
    api = _spoken(request, arrival)
    path = request.url.path[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        refusal = Refusal(Outcome.INVALID, f"`{path}` takes only {allowed}.", code="method_not_allowed")
    else:
        message = f"There is no {request.method} `{path}` here. {_way(path, api)}"
        refusal = Refusal(Outcome.NOT_FOUND, message, code="unknown_url")
    return _refuse(refusal, api, arrival.id)


def _spoken(request: Request, arrival: Arrival) -> _Api:
    """The API of a caller whose address is none of it."""
    headers = dict(request.scope["headers"])
    if ANTHROPIC in headers:
        return _ANTHROPIC
    aws = arrival.signed or _SENT_ONCE in headers
    return _BEDROCK if aws and (_LIBRARY not in headers or "/model/" in request.url.path) else _OPENAI


def _way(path: str, api: _Api) -> str:
    """What to do about a wrong address."""
    if path.startswith("/v1/v1/") and api is _OPENAI:
        return "Leave one `/v1` out of the base URL."
    if path.startswith("/v1/v1/") or (path.startswith("/v1/") and api is _BEDROCK):
        return "Leave `/v1` out of the base URL."
    if _LEFT_OUT.fullmatch(path):
        return f"Put `/v1` at the end of the base URL, so that this becomes `/v1{path}`."
    return api.where

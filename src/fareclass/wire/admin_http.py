"""HTTP as the control plane speaks it: bodies and parameters in, objects, pages and errors out."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fareclass.core.limits import ADMIN_BODY_BYTES
from fareclass.core.outcomes import Refusal
from fareclass.flow.operator_rules import ControlError
from fareclass.flow.reserving import InsufficientCapacity
from fareclass.wire.admin_types import Available, Error, ErrorBody, NoQuery
from fareclass.wire.json_checks import decode_object

T = TypeVar("T")
ACTOR = "admin"
"""Who the audit says it was: there is one admin key."""
Handler = Callable[[Request], Awaitable[Response]]

_AT = re.compile(r"(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?", re.DOTALL)
_NAMED = re.compile(r"Object (?:contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)
_EXPECTED = re.compile(
    r"Expected `(?P<kind>\w+)[^`]*`(?: (?P<long>of length )?(?P<bound>[<>]=) (?P<number>\d+))?.*", re.DOTALL
)
_AMOUNT = "an amount, such as 0.60"
_TIME = "a time with its zone, such as 2026-11-01T00:00:00Z"
_KINDS = {
    "int": "a whole number",
    "str": "text",
    "array": "a list",
    "object": "an object",
    "bool": "true or false",
    "decimal": _AMOUNT,
    "datetime": _TIME,
}
_INVALID = {"Invalid decimal string": _AMOUNT, "Invalid RFC3339 encoded datetime": _TIME}
_BOUNDS = {">=": "at least", "<=": "at most"}
_STATUS = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "already_exists": 409,
    "ambiguous": 409,
    "in_use": 409,
    "insufficient_capacity": 409,
    "capacity_unknown": 409,
    "too_many": 409,
    "ended": 409,
    "unavailable": 503,
}


class Operation(NamedTuple):
    """One command: where it is, what it takes and gives. `many` answers a page of `result`."""

    method: str
    path: str
    handler: Handler
    summary: str
    result: type
    body: type | None = None
    query: type = NoQuery
    many: bool = False
    status: int = 200


async def read_body(request: Request, kind: type[T], most_bytes: int = ADMIN_BODY_BYTES) -> T:
    """The request's JSON body as `kind`.

    Raises:
        ControlError: too large, not a JSON object, or not of that form; `field` is the path at fault.
    """
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > most_bytes:
            raise ControlError("invalid", f"the request body is larger than {most_bytes} bytes")
    try:
        decode_object(bytes(raw))
    except Refusal as refusal:
        raise ControlError("invalid", refusal.message, refusal.param) from None
    try:
        return msgspec.json.decode(bytes(raw), type=kind)
    except msgspec.ValidationError as error:
        raise _bad_field(str(error)) from None


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work, which is ended once the caller has hung up. The request's body must have been read.

    Raises:
        ClientDisconnect: he has.
        ControlError: the gateway stops and can't wait for it.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    except asyncio.CancelledError:
        raise ControlError("unavailable", "The gateway is being stopped. Try again once it is back.") from None
    finally:
        leaving.cancel()
        working.cancel()


def read_query(request: Request, kind: type[T]) -> T:
    """The query parameters as `kind`.

    Raises:
        ControlError: one is unknown, of the wrong form, or holds what no name can.
    """
    given = dict(request.query_params)
    for name, value in given.items():
        if not value.isprintable():
            raise ControlError("invalid", "the parameter holds unprintable characters", name)
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _bad_field(str(error)) from None


def path_part(request: Request, name: str) -> str:
    """A part of the path that names an object.

    Raises:
        ControlError: it holds what no name can.
    """
    value: str = request.path_params[name]
    if not value.isprintable():
        raise ControlError("not_found", f"no such {name}", name)
    return value


def answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def page(records: Sequence[Any], limit: int, cursor: str) -> Response:
    """A part of a list that was read with one more than `limit`; attribute `cursor` of the last shown leads on."""
    more = len(records) > limit
    shown = records[:limit]
    return answer({"data": shown, "next": str(getattr(shown[-1], cursor)) if more else None})


def micros(moment: datetime | None) -> int | None:
    """Microseconds since the epoch."""
    return None if moment is None else round(moment.timestamp() * 1_000_000)


def refuse(error: ControlError) -> Response:
    body = Error(error=ErrorBody(code=error.code, message=error.message, field=error.field))
    if isinstance(error, InsufficientCapacity):
        body.error.available = Available(input_tpm=error.available.input, output_tpm=error.available.output)
    response = answer(body, _STATUS[error.code])
    if error.code == "unauthenticated":
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _bad_field(text: str) -> ControlError:
    """What msgspec says as an error with the path of the field."""
    match = _AT.fullmatch(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    named = _NAMED.fullmatch(what)
    if named is not None:
        field = f"{path}.{named['name']}" if path else named["name"]
        what = "this field is unknown" if "unknown" in what else "this field is required"
        return ControlError("invalid", f"{field[:200]}: {what}", field[:200])
    return ControlError("invalid", f"{path or 'body'}: {_in_words(what)}", path or None)


def _in_words(what: str) -> str:
    """Such as ``Expected `int` >= 1`` for people."""
    expected = _EXPECTED.fullmatch(what)
    if expected is None:
        return f"must be {_INVALID[what]}" if what in _INVALID else what
    words = f"must be {_KINDS.get(expected['kind'], expected['kind'])}"
    if expected["bound"] is None:
        return words
    units = {"str": " characters", "array": " items", "object": " entries"}.get(expected["kind"], "")
    return f"{words}, {_BOUNDS[expected['bound']]} {expected['number']}{units}"

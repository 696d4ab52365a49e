"""The first look at a request: the headers that count, and its body within bounds."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec

from fareclass.core.limits import BODY_BYTES, BODY_READ_S, HEADER_VALUE_CHARS
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.deadlines import Deadlines
from fareclass.flow.clock import now_us
from fareclass.policy.sigv4 import is_signed

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Take = Callable[[bytes], object]

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_PRINTABLE = re.compile(r"[^!-~]")
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


class CallerGone(Exception):
    """The caller hung up before its request was whole."""


class Arrival(msgspec.Struct, frozen=True):
    """What is known of a request before its body: our id, the caller's own id, and when it came.

    `token` is what was sent as a bearer token; `signed`: a signature stands in its place (R51).
    `repeat_key` is the same when a call is sent again (R48), `patience_s` how long its client waits for the answer.
    `service_tier` and `guardrail` are what Bedrock's InvokeModel says in headers, since its body is the model's own.
    """

    id: str
    caller_id: str
    token: bytes | None
    traceparent: str | None
    length: bytes | None
    encoding: bytes | None
    arrived_s: float
    arrived_us: int
    signed: bool = False
    repeat_key: bytes | None = None
    patience_s: float | None = None
    service_tier: bytes | None = None
    guardrail: bytes | None = None


def arrive(headers: Iterable[tuple[bytes, bytes]]) -> Arrival:
    """Read the headers once. Our request id sorts by time, so that the ledger grows at its end."""
    arrived_us = now_us()
    found = dict(headers)
    authorization = found.get(b"authorization", b"")
    scheme, _, token = authorization.partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else None
    caller_id = found.get(b"x-client-request-id") or found.get(b"x-request-id", b"")
    traceparent = found.get(b"traceparent")
    return Arrival(
        id=f"req_{arrived_us:013x}{random.getrandbits(64):016x}",
        caller_id=_PRINTABLE.sub("", caller_id[:HEADER_VALUE_CHARS].decode("latin-1")) if caller_id else "",
        token=found.get(b"x-api-key") if bearer is None else bearer,
        traceparent=traceparent.decode() if traceparent and _TRACEPARENT.fullmatch(traceparent) else None,
        length=found.get(b"content-length"),
        encoding=found.get(b"content-encoding"),
        arrived_s=asyncio.get_running_loop().time(),
        arrived_us=arrived_us,
        signed=is_signed(authorization),
        repeat_key=found.get(b"idempotency-key") or found.get(b"amz-sdk-invocation-id"),
        patience_s=_seconds(found.get(b"x-stainless-read-timeout")),
        service_tier=found.get(b"x-amzn-bedrock-service-tier"),
        guardrail=found.get(b"x-amzn-bedrock-guardrailidentifier"),
    )


def _seconds(told: bytes | None) -> float | None:
    """What the OpenAI and Anthropic SDKs say of their own time-out; nothing where it makes no sense."""
    return float(told) if told is not None and _SECONDS.fullmatch(told) else None


async def read_body(receive: Receive, arrival: Arrival, deadlines: Deadlines, take: Take | None = None) -> bytes:
    """The whole request body, or nothing where each part of it goes to `take` instead.

    Raises:
        Refusal: `invalid`: larger than `BODY_BYTES` (seen before reading where the length was
            declared), compressed, or slower than `BODY_READ_S`.
        CallerGone: the caller hung up meanwhile.
    """
    check_encoding(arrival)
    if arrival.length is not None and int(arrival.length) > BODY_BYTES:
        raise _too_large()
    try:
        with deadlines.within(BODY_READ_S):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            body: bytes = message.get("body", b"")
            if take is None and not message.get("more_body"):
                return body
            whole = bytearray()
            await _read_rest(receive, message, take or whole.extend)
            return bytes(whole)
    except TimeoutError:
        raise Refusal(
            Outcome.INVALID, f"The request body took longer than {BODY_READ_S:.0f} s to arrive.", code="request_timeout"
        ) from None


def check_encoding(arrival: Arrival) -> None:
    """Raises:
    Refusal: `invalid`: the body is compressed.
    """
    if arrival.encoding is not None and arrival.encoding.lower() != b"identity":
        raise Refusal(
            Outcome.INVALID, "Compressed request bodies are not understood; send it without Content-Encoding."
        )


async def _read_rest(receive: Receive, message: Message, take: Take) -> None:
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise CallerGone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES:
            raise _too_large()
        take(part)
        if not message.get("more_body"):
            return
        message = await receive()


def _too_large() -> Refusal:
    return Refusal(Outcome.INVALID, f"The request body is larger than {BODY_BYTES // 2**20} MiB.")
